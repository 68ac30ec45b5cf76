//! Why rows cannot become columns, or columns cannot become what Spark takes. Most of it is the user's to mend, so the
//! messages name the column and its type as the user knows them.

use sparkray_common::{ErrorCode, ValueError};

/// Why rows or columns cannot be converted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ColumnError {
    /// A type that this version does not carry.
    #[error("column '{column}' has the type {type_name}, which cannot be {direction} yet; drop or cast it")]
    UnsupportedType {
        /// The column's name.
        column: String,
        /// The type as the user knows it.
        type_name: String,
        /// `put into the object store` or `read by Spark`.
        direction: &'static str,
    },
    /// A `StructType` in JSON that is not one.
    #[error("the schema cannot be read: {0}")]
    BadSchema(String),
    /// Bytes that are not rows of the schema.
    #[error("row {row} of a staged batch is malformed: {problem}")]
    BadRow {
        /// Index in the staged batch.
        row: usize,
        /// What is wrong.
        problem: String,
    },
    /// A null where the schema says that there is none.
    #[error("column '{0}' is declared as not nullable and holds a null")]
    UnexpectedNull(String),
    /// A value that the target type cannot hold.
    #[error("a value of column '{column}' of type {type_name} does not fit into Spark's {target}: {problem}")]
    DoesNotFit {
        /// The column's name.
        column: String,
        /// Arrow's type.
        type_name: String,
        /// Spark's type.
        target: String,
        /// What Arrow says.
        problem: String,
    },
    /// An object that is no Arrow table.
    #[error("the object holds {0}, not an Arrow table")]
    NotATable(String),
    /// An IPC stream that cannot be read.
    #[error("the Arrow stream is malformed: {0}")]
    BadStream(String),
    /// A column whose name is no text.
    #[error("the column '{0}' has a name that is not UTF-8, which Spark cannot have; rename it")]
    BadName(String),
    /// Columns that cannot be encoded.
    #[error("the columns cannot be encoded: {0}")]
    Encode(String),
    /// A block whose columns are not those of the first block.
    #[error("{0}")]
    SchemaMismatch(String),
}

impl ColumnError {
    /// The code that callers decide on.
    pub(crate) fn code(&self) -> ErrorCode {
        match self {
            Self::BadRow { .. } | Self::Encode(_) => ErrorCode::Internal,
            // There is no table: callers tell it from a table that cannot be read.
            Self::NotATable(_) => ErrorCode::NotFound,
            _ => ErrorCode::InvalidArgument,
        }
    }
}

impl From<ValueError> for ColumnError {
    fn from(error: ValueError) -> Self {
        Self::BadStream(error.to_string())
    }
}
