//! What the processes of an arm are started with, word by word; the same words in `commands.txt`, and in
//! `--dry-run` with names in place of addresses.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::failure::Failure;
use crate::lab::experiments::{Launch, Phase};
use crate::lab::samples;

/// Every command of an arm, as it could be typed.
pub const FILE: &str = "commands.txt";

/// One command, word by word.
pub type Command = Vec<String>;

/// Where everything of an arm is.
pub struct Places {
    /// Folder of the programs.
    pub bin: PathBuf,
    /// Bootstrap list.
    pub brokers: String,
    /// The topic, after which the group is called.
    pub topic: String,
    /// The arm's folder.
    pub dir: PathBuf,
    /// `host:port` of the sink, the producer and the live page.
    pub sink: String,
    /// The producer's.
    pub producer: String,
    /// The live page's.
    pub live: String,
}

impl Places {
    /// Names in place of what only a run knows.
    pub fn named() -> Self {
        Self {
            bin: PathBuf::from("target/release"),
            brokers: "BROKERS".into(),
            topic: "TOPIC".into(),
            dir: PathBuf::from("DIR"),
            sink: "SINK".into(),
            producer: "PRODUCER".into(),
            live: "LIVE".into(),
        }
    }

    /// The sink, on a port that the system picks.
    pub fn sink(&self, launch: &Launch) -> Command {
        self.of("sink", "--listen 127.0.0.1:0", &launch.sink)
    }

    /// A member of the group.
    pub fn processor(&self, name: &str, flags: &str) -> Command {
        let file = |what: &str, ext: &str| self.file(&format!("{}.{ext}", of_member(what, name)));
        let own = format!(
            "--brokers {0} --topic {1} --group {1} --sink http://{2} --producer http://{3} \
             --listen 127.0.0.1:0 --hlog {4} --shed-ids {5}",
            self.brokers,
            self.topic,
            self.sink,
            self.producer,
            file("latency", "hlog"),
            file("shed", "ids")
        );
        self.of("processor", &own, flags)
    }

    /// The producer.
    pub fn producer(&self, launch: &Launch) -> Command {
        let own =
            format!("--brokers {} --topic {} --listen {}", self.brokers, self.topic, self.producer);
        self.of("producer", &own, &launch.producer)
    }

    /// What tells the sink to stall.
    pub fn stall(&self, stall: Phase) -> Command {
        let flags = format!("--rate {} --for {}s", stall.rate, stall.length());
        self.of("chaos", &format!("stall --sink http://{}", self.sink), &flags)
    }

    /// The watch of `processes` (name, pid) and of the pages (name, address) beside sink and producer;
    /// `heap` is whose heap profiles are kept.
    pub fn watch(
        &self,
        processes: &[(String, String)],
        pages: &[(String, String)],
        heap: Option<&str>,
    ) -> Command {
        let processes: Vec<String> =
            processes.iter().map(|(name, pid)| format!("{name}={pid}")).collect();
        let ends = [("sink", &self.sink), ("producer", &self.producer)];
        let pages: Vec<String> = ends
            .into_iter()
            .chain(pages.iter().map(|(name, at)| (name.as_str(), at)))
            .map(|(name, at)| format!("{name}=http://{at}/metrics"))
            .collect();
        let own = format!(
            "watch --brokers {0} --topic {1} --group {1} --process {2} --metrics {3} --out {4} \
             --listen {5} --sink http://{6}",
            self.brokers,
            self.topic,
            processes.join(","),
            pages.join(","),
            self.dir.display(),
            self.live,
            self.sink
        );
        self.of("lab", &own, &heap.map(|at| format!("--heap http://{at}")).unwrap_or_default())
    }

    /// The ledger, from what the producer and the processors `names` printed.
    pub fn audit(&self, names: &[String]) -> Command {
        let own = format!(
            "audit --brokers {0} --topic {1} --group {1} --sink http://{2} --producer {3} --out {4}",
            self.brokers,
            self.topic,
            self.sink,
            self.file("producer.json"),
            self.file(crate::lab::audit::FILE)
        );
        let files = names.iter().map(|name| {
            let shed = self.file(&format!("{}.ids", of_member("shed", name)));
            format!("--processor {} --shed-ids {shed}", self.file(&format!("{name}.json")))
        });
        self.of("lab", &own, &files.collect::<Vec<_>>().join(" "))
    }

    /// What the last heap profile names.
    pub fn autopsy(&self) -> Command {
        self.of("lab", &format!("autopsy --json {}", self.file(crate::lab::heaps::LAST)), "")
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    fn of(&self, program: &str, own: &str, flags: &str) -> Command {
        let words = own.split_whitespace().chain(flags.split_whitespace()).map(str::to_owned);
        std::iter::once(self.bin.join(program).display().to_string()).chain(words).collect()
    }
}

/// `latency` of `processor-2` is `latency-2`.
fn of_member(what: &str, name: &str) -> String {
    name.replacen("processor", what, 1)
}

/// The commands of an arm in the order in which they run, with names in place of addresses.
pub fn all(launch: &Launch, places: &Places) -> Vec<Command> {
    let names: Vec<String> = launch.processors.iter().map(|(name, _)| name.clone()).collect();
    let mut all = vec![topic(&places.topic, launch.partitions), places.sink(launch)];
    all.extend(launch.processors.iter().map(|(name, flags)| places.processor(name, flags)));
    all.push(places.producer(launch));
    let each = names.iter().map(String::as_str).chain(["sink", "producer"]);
    let processes: Vec<_> = each.map(|name| (name.to_owned(), "PID".to_owned())).collect();
    let pages: Vec<_> = names.iter().map(|name| (name.clone(), "ADDRESS".to_owned())).collect();
    all.push(places.watch(&processes, &pages, launch.memory_limit.map(|_| "ADDRESS")));
    if let Some(stall) = launch.stall {
        all.push(vec!["sleep".into(), stall.from.to_string()]);
        all.push(places.stall(stall));
    }
    all.push(places.audit(&names));
    all
}

/// What makes an arm's topic.
pub fn topic(name: &str, partitions: u32) -> Command {
    let words = ["run/cluster.sh", "topic", "create", name, "--partitions"].map(str::to_owned);
    words.into_iter().chain([partitions.to_string()]).collect()
}

/// A command as a shell reads it.
pub fn line(command: &[String]) -> String {
    let word = |word: &String| {
        let is_plain = |c: char| c.is_ascii_alphanumeric() || "_./:=,@%+-".contains(c);
        if !word.is_empty() && word.chars().all(is_plain) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', r"'\''"))
        }
    };
    command.iter().map(word).collect::<Vec<_>>().join(" ")
}

/// Adds a line to the arm's commands.
///
/// # Errors
/// When the file cannot be written.
pub fn note(dir: &Path, line: &str) -> Result<(), Failure> {
    let path = dir.join(FILE);
    File::options()
        .create(true)
        .append(true)
        .open(&path)
        .and_then(|mut file| writeln!(file, "{line}"))
        .map_err(|e| Failure::Failed(format!("{}: cannot be written: {e}", path.display())))
}

/// Whether an arm's folder is one of a run.
pub fn is_arm(dir: &Path) -> bool {
    [samples::FILE, FILE].iter().any(|name| dir.join(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::experiments::{Form, exp2, exp6};

    /// Prevents: a flag that is declared and not given, a stall that is not the one of the prediction.
    #[test]
    fn what_is_declared_is_what_is_started() {
        let lines = |launch: &Launch| -> Vec<String> {
            all(launch, &Places::named()).iter().map(|command| line(command)).collect()
        };
        let launches = (exp2::EXPERIMENT.launches)(Form::Quick);
        let pull = lines(&launches[0]);
        let has = |lines: &[String], what: &str| lines.iter().any(|line| line.contains(what));
        for what in [
            "topic create TOPIC --partitions 12",
            "target/release/sink --listen 127.0.0.1:0 --rate-limit 2000",
            "--hlog DIR/latency.hlog --shed-ids DIR/shed.ids --queue pull",
            "producer --brokers BROKERS --topic TOPIC --listen PRODUCER --schedule 1500:15s,8000:60s",
            "sleep 58",
            "chaos stall --sink http://SINK --rate 500 --for 15s",
        ] {
            assert!(has(&pull, what), "{what}: {pull:#?}");
        }
        let group = lines(&(exp6::EXPERIMENT.launches)(Form::Quick)[0]);
        assert!(has(&group, "--hlog DIR/latency-2.hlog --shed-ids DIR/shed-2.ids"), "{group:#?}");
        assert!(has(&group, "--processor DIR/processor-3.json --shed-ids DIR/shed-3.ids"));
    }

    #[test]
    fn a_line_reads_as_its_words_in_a_shell() {
        let words = ["a b", "it's", "x=1", ""].map(str::to_owned);
        let typed = format!("printf '<%s>' {}", line(&words));
        let said = std::process::Command::new("sh").args(["-c", &typed]).output().expect("sh");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "<a b><it's><x=1><>");
    }
}
