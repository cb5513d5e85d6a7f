//! The page of `lab predict --listen`, in a real browser, beside a committed run.

use crate::browser::Browser;
use crate::common::lab::Served;

const LAB: &str = env!("CARGO_BIN_EXE_lab");
const ARM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/results/full/ceiling/bounded");

/// Prevents: a slider that moves nothing, or that only a mouse can move; a page that draws the run
/// without the model or the model without the run; a wrong value that is taken for an answer; a
/// page that calls another server.
#[test]
fn sliders_ask_the_model_beside_a_recorded_run() {
    let served = Served::start(LAB, &["predict", "--beside", ARM, "--listen", "127.0.0.1:0"]);
    let mut page = Browser::start();
    page.open(&format!("{}/", served.url));
    let state = "document.querySelector('#state').textContent";
    page.until("an answer", &format!("{state} === 'predicted'"));
    let name = page.eval("document.querySelector('#name').textContent");
    assert_eq!(name, "predicted, beside ceiling/bounded");
    assert_eq!(page.charts_drawn(), 5, "charts with something drawn");
    let tile = |name: &str| format!("document.querySelector('#now-{name}').textContent");
    assert_eq!(page.eval(&tile("lag_peak")), "600,000 events");

    // By keyboard, one step at a time: 8,000 to 18,000 events/s.
    page.eval("document.querySelector('#offered-slider').focus()");
    for _ in 0..60 {
        page.key("ArrowRight", "");
    }
    page.until("the slider moved", "Number(document.querySelector('#offered').value) > 9000");
    page.until("a larger lag", &format!("/^1,[0-9,]+ events$/.test({})", tile("lag_peak")));
    let command = page.eval("document.querySelector('#command').textContent");
    assert!(command.as_str().is_some_and(|c| c.contains("--schedule ")), "{command}");

    // A field, too: an invalid queue is reported, and the drawing stays.
    page.eval("{ const field = document.querySelector('#queue'); field.value = 'pull'; field.dispatchEvent(new Event('change')); }");
    page.until("pull", "document.querySelector('#given').textContent.includes('no queue (pull)')");
    page.eval("{ const field = document.querySelector('#policy'); field.value = 'shed'; field.dispatchEvent(new Event('change')); }");
    page.until("a reason", &format!("{state}.includes('needs --queue bounded')"));
    page.click("#reset");
    let as_it_was = format!("{state} === 'predicted' && {} === '600,000 events'", tile("lag_peak"));
    page.until("as it was", &as_it_was);

    page.fits_a_phone();
    let own = format!("{}/", served.url);
    page.kept_to(&own, &["Runtime.exceptionThrown", "Runtime.consoleAPICalled"]);
    served.stop();
}
