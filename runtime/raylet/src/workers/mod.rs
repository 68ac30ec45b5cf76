//! Worker processes, from the zygote to their last line of output.

pub(crate) mod descendants;
pub(crate) mod logs;
pub(crate) mod orphans;
pub(crate) mod output;
pub(crate) mod pool;
pub(crate) mod table;
pub(crate) mod zygote;
