//! A user's own load: planned by `lab plan --producer`, for the model on the live page. It has one
//! arm, whatever its folder is called, and no checks, because there is no declaration of what must
//! hold.

use super::{ArmSpec, Experiment, no_tables};
use crate::lab::charts::Ink;

/// The declaration. It is not among [`super::ALL`]: there is nothing to run.
pub const EXPERIMENT: Experiment = Experiment {
    name: "own",
    title: "A load of one's own",
    question: "What does the model say of it?",
    held: "what was given",
    varied: "nothing",
    arms: &[ArmSpec::new("own", "own", Ink::Blue)],
    launches: |_| Vec::new(),
    warm_up: false,
    predict: |_| Vec::new(),
    checks: |_| Vec::new(),
    charts: |_| Vec::new(),
    tables: no_tables,
    limits: "",
};
