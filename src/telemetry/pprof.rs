//! The messages of pprof's format (`profile.proto` of google/pprof), with the fields that are
//! written or read here.
//!
//! Strings are numbers into the string table, whose first is empty; ids are 1 and above.

pub use prost::Message;

/// A profile.
#[derive(Clone, PartialEq, Message)]
pub struct Profile {
    /// The types of every sample's values.
    #[prost(message, repeated, tag = "1")]
    pub sample_type: Vec<ValueType>,
    /// The stacks.
    #[prost(message, repeated, tag = "2")]
    pub sample: Vec<Sample>,
    /// The files.
    #[prost(message, repeated, tag = "3")]
    pub mapping: Vec<Mapping>,
    /// The places.
    #[prost(message, repeated, tag = "4")]
    pub location: Vec<Location>,
    /// The functions.
    #[prost(message, repeated, tag = "5")]
    pub function: Vec<Function>,
    /// All strings.
    #[prost(string, repeated, tag = "6")]
    pub string_table: Vec<String>,
    /// Frames that a reader drops: a regular expression.
    #[prost(int64, tag = "7")]
    pub drop_frames: i64,
    /// Exceptions from that.
    #[prost(int64, tag = "8")]
    pub keep_frames: i64,
    /// When it was taken, ns since the epoch.
    #[prost(int64, tag = "9")]
    pub time_nanos: i64,
    /// How long it took, ns.
    #[prost(int64, tag = "10")]
    pub duration_nanos: i64,
    /// The unit between two samples.
    #[prost(message, optional, tag = "11")]
    pub period_type: Option<ValueType>,
    /// The amount of it.
    #[prost(int64, tag = "12")]
    pub period: i64,
    /// For people.
    #[prost(int64, repeated, tag = "13")]
    pub comment: Vec<i64>,
    /// Which value is shown first.
    #[prost(int64, tag = "14")]
    pub default_sample_type: i64,
}

/// The type and the unit of a value.
#[derive(Clone, PartialEq, Message)]
pub struct ValueType {
    /// Its name.
    #[prost(int64, tag = "1")]
    pub ty: i64,
    /// Its unit.
    #[prost(int64, tag = "2")]
    pub unit: i64,
}

/// A stack, innermost place first, and its values.
#[derive(Clone, PartialEq, Message)]
pub struct Sample {
    /// Where, by the ids of places.
    #[prost(uint64, repeated, tag = "1")]
    pub location_id: Vec<u64>,
    /// One for each sample type.
    #[prost(int64, repeated, tag = "2")]
    pub value: Vec<i64>,
    /// Further data.
    #[prost(message, repeated, tag = "3")]
    pub label: Vec<Label>,
}

/// Further data of a sample.
#[derive(Clone, PartialEq, Message)]
pub struct Label {
    /// Its name.
    #[prost(int64, tag = "1")]
    pub key: i64,
    /// Its text.
    #[prost(int64, tag = "2")]
    pub str: i64,
    /// Or its number.
    #[prost(int64, tag = "3")]
    pub num: i64,
    /// The unit of that.
    #[prost(int64, tag = "4")]
    pub num_unit: i64,
}

/// A file that is mapped into memory.
#[derive(Clone, PartialEq, Message)]
pub struct Mapping {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Where it begins.
    #[prost(uint64, tag = "2")]
    pub memory_start: u64,
    /// Where it ends.
    #[prost(uint64, tag = "3")]
    pub memory_limit: u64,
    /// Its offset in the file.
    #[prost(uint64, tag = "4")]
    pub file_offset: u64,
    /// Its file.
    #[prost(int64, tag = "5")]
    pub filename: i64,
    /// Its build id.
    #[prost(int64, tag = "6")]
    pub build_id: i64,
    /// Whether its functions are named.
    #[prost(bool, tag = "7")]
    pub has_functions: bool,
    /// Whether its files are named.
    #[prost(bool, tag = "8")]
    pub has_filenames: bool,
    /// Whether it has line numbers.
    #[prost(bool, tag = "9")]
    pub has_line_numbers: bool,
    /// Whether it has inlined functions.
    #[prost(bool, tag = "10")]
    pub has_inline_frames: bool,
}

/// A place in the program.
#[derive(Clone, PartialEq, Message)]
pub struct Location {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Which file it is in.
    #[prost(uint64, tag = "2")]
    pub mapping_id: u64,
    /// Its address.
    #[prost(uint64, tag = "3")]
    pub address: u64,
    /// Its lines.
    #[prost(message, repeated, tag = "4")]
    pub line: Vec<Line>,
    /// Whether it stands for several.
    #[prost(bool, tag = "5")]
    pub is_folded: bool,
}

/// A line of a function; an inlined one comes before its caller.
#[derive(Clone, PartialEq, Message)]
pub struct Line {
    /// The function.
    #[prost(uint64, tag = "1")]
    pub function_id: u64,
    /// The line.
    #[prost(int64, tag = "2")]
    pub line: i64,
}

/// A function.
#[derive(Clone, PartialEq, Message)]
pub struct Function {
    /// Its id.
    #[prost(uint64, tag = "1")]
    pub id: u64,
    /// Its name.
    #[prost(int64, tag = "2")]
    pub name: i64,
    /// Its name as the linker knows it.
    #[prost(int64, tag = "3")]
    pub system_name: i64,
    /// Its file.
    #[prost(int64, tag = "4")]
    pub filename: i64,
    /// Where it begins.
    #[prost(int64, tag = "5")]
    pub start_line: i64,
}
