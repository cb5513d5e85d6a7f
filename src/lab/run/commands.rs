//! The commands of an arm's processes, word by word. `commands.txt` has the same words; `--dry-run`
//! has names in place of addresses.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use argh::FromArgs;

use crate::cli;
use crate::failure::Failure;
use crate::lab::experiments::{Launch, Phase, launch};
use crate::lab::samples;
use crate::{packed, units};

/// Every command of an arm, as a user could type it.
pub const FILE: &str = "commands.txt";

/// The autoscaler's name among the processes of an arm.
pub const AUTOSCALER: &str = "autoscaler";

/// The address of programs whose address others are told: the system picks the port.
pub const LOOPBACK: &str = "127.0.0.1:0";

/// One command, word by word.
pub type Command = Vec<String>;

/// Where everything of an arm is.
pub struct Places {
    /// Folder of the programs.
    pub bin: PathBuf,
    /// Bootstrap list.
    pub brokers: String,
    /// The topic; the group has its name.
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
    /// Names in place of values that only a run knows.
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

    /// The sink, which listens at `listen`.
    pub fn sink(&self, launch: &Launch, listen: &str) -> Command {
        self.of("sink", &["--listen", listen], &launch.sink)
    }

    /// A member of the group, which listens at `listen`.
    pub fn processor(&self, name: &str, listen: &str, flags: &str) -> Command {
        let mut own = self.of("processor", &self.of_group(), "");
        let files = [("--hlog", "latency", "hlog"), ("--shed-ids", "shed", "ids")];
        let ends = [("--sink", &self.sink), ("--producer", &self.producer)];
        own.extend(ends.iter().flat_map(|(flag, at)| [(*flag).to_owned(), format!("http://{at}")]));
        own.extend(["--listen".to_owned(), listen.to_owned()]);
        for (flag, what, ext) in files {
            own.extend([flag.to_owned(), self.file(&format!("{}.{ext}", of_member(what, name)))]);
        }
        if launch::spills(flags) {
            own.extend(["--spill-dir".to_owned(), self.file(&of_member("spill", name))]);
        }
        own.extend(flags.split_whitespace().map(str::to_owned));
        own
    }

    /// What starts and stops the members of an arm: copies of its processor, of which number N listens at `ports`N.
    pub fn autoscaler(&self, launch: &Launch, flags: &str, ports: &str) -> Command {
        let mut own = self.of("lab", &["autoscale"], "");
        own.extend(self.of_group().map(str::to_owned));
        let pairs = [
            ("--listen", LOOPBACK.to_owned()),
            ("--logs", self.dir.display().to_string()),
            ("--name", "processor".to_owned()),
        ];
        own.extend(pairs.into_iter().flat_map(|(flag, value)| [flag.to_owned(), value]));
        own.extend(flags.split_whitespace().map(str::to_owned));
        own.push("--".into());
        let copies = launch.processors.first().map(|(_, flags)| flags.as_str()).unwrap_or_default();
        own.extend(self.processor("processor-{start}", &format!("{ports}{{n}}"), copies));
        own
    }

    /// A producer with these flags, which listens at `listen`.
    pub fn producer(&self, listen: &str, flags: &str) -> Command {
        let own = ["--brokers", &self.brokers, "--topic", &self.topic, "--listen", listen];
        let mut words = self.of("producer", &own, flags);
        if launch::resends(flags) {
            words.extend(["--sink".to_owned(), format!("http://{}", self.sink)]);
        }
        words
    }

    /// The command that makes the sink stall.
    pub fn stall(&self, stall: Phase) -> Command {
        self.chaos(&format!("stall --rate {} --for {}s", stall.rate, stall.length()))
    }

    /// A command of `chaos` for the sink.
    pub fn chaos(&self, command: &str) -> Command {
        let mut words = self.of("chaos", &[], command);
        words.extend(["--sink".to_owned(), format!("http://{}", self.sink)]);
        words
    }

    /// The watch of `processes` (name, pid) and of the pages (name, address) beside sink and producer;
    /// `heap` is whose heap profiles are kept.
    pub fn watch(
        &self,
        processes: &[(String, String)],
        pages: &[(String, String)],
        heap: Option<&str>,
        every: Duration,
    ) -> Command {
        let processes: Vec<String> =
            processes.iter().map(|(name, pid)| format!("{name}={pid}")).collect();
        let ends = [("sink", &self.sink), ("producer", &self.producer)];
        let pages: Vec<String> = ends
            .into_iter()
            .chain(pages.iter().map(|(name, at)| (name.as_str(), at)))
            .map(|(name, at)| format!("{name}=http://{at}/metrics"))
            .collect();
        let mut words = self.of("lab", &["watch"], "");
        words.extend(self.of_group().map(str::to_owned));
        let own = [
            ("--process", processes.join(",")),
            ("--metrics", pages.join(",")),
            ("--out", self.dir.display().to_string()),
            ("--listen", self.live.clone()),
            ("--sink", format!("http://{}", self.sink)),
        ];
        let every = (every != Duration::from_secs(1)).then(|| ("--interval", units::show(every)));
        let heap = heap.map(|at| ("--heap", format!("http://{at}")));
        let pairs = own.into_iter().chain(heap).chain(every);
        words.extend(pairs.flat_map(|(flag, value)| [flag.to_owned(), value]));
        words
    }

    /// The ledger, from what these producers and processors printed, and left on disk.
    pub fn audit(&self, producers: &[String], processors: &[String], spills: bool) -> Command {
        let mut words = self.of("lab", &["audit"], "");
        words.extend(self.of_group().map(str::to_owned));
        let mut add = |flag: &str, value: String| words.extend([flag.to_owned(), value]);
        add("--sink", format!("http://{}", self.sink));
        for name in producers {
            add("--producer", self.file(&format!("{name}.json")));
        }
        for name in processors {
            add("--processor", self.file(&format!("{name}.json")));
            add("--shed-ids", self.file(&format!("{}.ids", of_member("shed", name))));
            if spills {
                add("--spill-dir", self.file(&of_member("spill", name)));
            }
        }
        add("--out", self.file(crate::lab::audit::FILE));
        words
    }

    /// The autopsy of the last heap profile.
    pub fn autopsy(&self) -> Command {
        self.of("lab", &["autopsy", "--json", &self.file(crate::lab::heaps::LAST)], "")
    }

    fn of_group(&self) -> [&str; 6] {
        ["--brokers", &self.brokers, "--topic", &self.topic, "--group", &self.topic]
    }

    fn file(&self, name: &str) -> String {
        self.dir.join(name).display().to_string()
    }

    /// Paths may hold blanks; `flags` are as a declaration has them.
    fn of(&self, program: &str, own: &[&str], flags: &str) -> Command {
        let program = self.bin.join(program).display().to_string();
        let words = own.iter().copied().chain(flags.split_whitespace()).map(str::to_owned);
        std::iter::once(program).chain(words).collect()
    }
}

/// `latency` of `processor-2` is `latency-2`.
fn of_member(what: &str, name: &str) -> String {
    name.replacen("processor", what, 1)
}

/// The commands of an arm in the order in which they run, with names in place of addresses.
pub fn all(launch: &Launch) -> Vec<Command> {
    let places = Places::named();
    let named = |name: &str, at: &str| (name.to_owned(), at.to_owned());
    let mut all =
        vec![topic(&places.topic, launch.partitions, &launch.topic), places.sink(launch, LOOPBACK)];
    // Who leaves a summary, whose process is watched, and whose page.
    let (names, watched, pages) = match &launch.autoscaler {
        Some(flags) => {
            all.push(places.autoscaler(launch, flags, "127.0.0.1:PORT"));
            // One page for each number that a copy may have, and the autoscaler's own.
            let own = named(AUTOSCALER, "ADDRESS");
            let pages = vec![named("processor-N", "127.0.0.1:PORTN"), own];
            (vec!["processor-START".to_owned()], vec![AUTOSCALER.to_owned()], pages)
        }
        None => {
            let members = launch.processors.iter();
            all.extend(members.map(|(name, flags)| places.processor(name, LOOPBACK, flags)));
            let names: Vec<String> = launch.processors.iter().map(|it| it.0.clone()).collect();
            let pages = names.iter().map(|name| named(name, "ADDRESS")).collect();
            (names.clone(), names, pages)
        }
    };
    all.push(places.producer(&places.producer, &launch.producer));
    let each = watched.iter().map(String::as_str).chain(["sink", "producer"]);
    let processes: Vec<_> = each.map(|name| named(name, "PID")).collect();
    all.push(places.watch(&processes, &pages, launch.memory_limit.map(|_| "ADDRESS"), launch.look));
    if let Some(stall) = launch.stall {
        all.push(vec!["sleep".into(), stall.from.to_string()]);
        all.push(places.stall(stall));
    }
    all.push(places.audit(&["producer".into()], &names, launch.spills()));
    all
}

/// The command that makes a topic.
pub fn topic(name: &str, partitions: u32, settings: &[String]) -> Command {
    let partitions = partitions.to_string();
    let words = ["run/cluster.sh", "topic", "create", name, "--partitions", &partitions];
    let settings = settings.iter().flat_map(|setting| ["--config", setting]);
    words.into_iter().chain(settings).map(str::to_owned).collect()
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

/// The settings that the flags of a `lab` command give.
///
/// # Errors
/// When it would not take them.
pub fn settings<T: FromArgs>(command: &[String]) -> Result<T, Failure> {
    cli::parsed("lab", command.iter().skip(2).cloned()).map_err(Failure::Failed)
}

/// Whether an arm's folder is one of a run.
pub fn is_arm(dir: &Path) -> bool {
    [samples::FILE, FILE].iter().any(|name| packed::exists(&dir.join(name)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::lab::experiments::{Form, exp2, exp6};

    /// Prevents: a flag that is declared and not given, a stall that is not the one of the prediction.
    #[test]
    fn what_is_declared_is_what_is_started() {
        let lines = |launch: &Launch| -> Vec<String> {
            all(launch).iter().map(|command| line(command)).collect()
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
            "chaos stall --rate 500 --for 15s --sink http://SINK",
        ] {
            assert!(has(&pull, what), "{what}: {pull:#?}");
        }
        let group = lines(&(exp6::EXPERIMENT.launches)(Form::Quick)[0]);
        assert!(has(&group, "--hlog DIR/latency-2.hlog --shed-ids DIR/shed-2.ids"), "{group:#?}");
        assert!(has(&group, "--processor DIR/processor-3.json --shed-ids DIR/shed-3.ids"));
    }

    /// Prevents: a folder with a blank in its name that makes two words of it.
    #[test]
    fn a_path_is_one_word() {
        let places = Places { dir: PathBuf::from("my results"), ..Places::named() };
        assert!(places.autopsy().contains(&"my results/heap-last.pb.gz".to_owned()));
        assert!(
            places.processor("processor", "L", "").contains(&"my results/latency.hlog".to_owned())
        );
        assert!(
            places
                .audit(&["producer".into()], &[], false)
                .contains(&"my results/ledger.json".to_owned())
        );
    }

    #[test]
    fn a_line_reads_as_its_words_in_a_shell() {
        let words = ["a b", "it's", "x=1", ""].map(str::to_owned);
        let typed = format!("printf '<%s>' {}", line(&words));
        let said = std::process::Command::new("sh").args(["-c", &typed]).output().expect("sh");
        assert_eq!(String::from_utf8_lossy(&said.stdout), "<a b><it's><x=1><>");
    }
}
