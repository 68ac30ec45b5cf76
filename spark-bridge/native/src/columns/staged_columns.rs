//! Columns as Java stages them: for each column eight bytes, 1 when it has nulls; if so a byte for each row, 1 where
//! it is null; then the values, 0 where they are null. Each part ends at a multiple of eight bytes.

use super::ColumnError;

/// One column of a batch.
#[derive(Debug, Clone, Copy)]
pub(super) struct StagedColumn<'a> {
    /// A byte for each row, not 0 where it is null.
    pub(super) nulls: Option<&'a [u8]>,
    /// The values, one after the other.
    pub(super) values: &'a [u8],
}

/// The columns of a batch; each has its rows.
pub(crate) struct StagedColumns<'a> {
    columns: Vec<StagedColumn<'a>>,
    rows: usize,
}

impl<'a> StagedColumns<'a> {
    /// Finds the columns; `widths` are the bytes of their values.
    pub(crate) fn parse(bytes: &'a [u8], rows: usize, widths: &[usize]) -> Result<Self, ColumnError> {
        let mut columns = Vec::with_capacity(widths.len());
        let mut rest = bytes;
        for (index, width) in widths.iter().enumerate() {
            let bad = || ColumnError::Encode(format!("column {index} of a staged batch is malformed"));
            let (header, after) = rest.split_first_chunk().ok_or_else(bad)?;
            rest = after;
            let nulls = match u64::from_le_bytes(*header) {
                0 => None,
                1 => Some(take_padded(&mut rest, rows).ok_or_else(bad)?),
                _ => return Err(bad()),
            };
            let values = rows
                .checked_mul(*width)
                .and_then(|len| take_padded(&mut rest, len))
                .ok_or_else(bad)?;
            columns.push(StagedColumn { nulls, values });
        }
        if rest.is_empty() {
            Ok(Self { columns, rows })
        } else {
            let problem = "bytes are left after the last column of a staged batch";
            Err(ColumnError::Encode(problem.to_owned()))
        }
    }

    /// Number of rows.
    pub(crate) fn len(&self) -> usize {
        self.rows
    }

    pub(super) fn column(&self, index: usize) -> StagedColumn<'a> {
        self.columns[index]
    }
}

/// The first `len` bytes; what is left begins behind their padding.
fn take_padded<'a>(rest: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    let (taken, after) = rest.split_at_checked(len.checked_next_multiple_of(8)?)?;
    *rest = after;
    Some(&taken[..len])
}

#[cfg(test)]
pub(super) mod testing {
    //! Stages columns as the class `ColumnStage` does.

    use super::super::unsafe_row::testing::Cell;

    /// The same rows as columns, whose values have these widths.
    pub(crate) fn stage_columns(rows: &[Vec<Cell>], widths: &[usize]) -> Vec<u8> {
        let mut staged: Vec<u8> = Vec::new();
        for (column, width) in widths.iter().enumerate() {
            let has_nulls = rows.iter().any(|row| matches!(row[column], Cell::Null));
            staged.extend_from_slice(&u64::from(has_nulls).to_le_bytes());
            if has_nulls {
                staged.extend(rows.iter().map(|row| u8::from(matches!(row[column], Cell::Null))));
                staged.resize(staged.len().next_multiple_of(8), 0);
            }
            for row in rows {
                match &row[column] {
                    Cell::Null => staged.resize(staged.len() + width, 0),
                    Cell::Word(word) => staged.extend_from_slice(&word.to_le_bytes()[..*width]),
                    Cell::Bytes(_) => panic!("a value of variable length is not staged in columns"),
                }
            }
            staged.resize(staged.len().next_multiple_of(8), 0);
        }
        staged
    }
}

#[cfg(test)]
mod tests {
    use super::super::unsafe_row::testing::Cell;
    use super::testing::stage_columns;
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn nulls_and_values_are_found_behind_the_padding_of_what_is_before_them() {
        let rows: Vec<Vec<Cell>> = (0..3)
            .map(|row| {
                let first = if row == 1 { Cell::Null } else { Cell::Word(7) };
                vec![first, Cell::Word(row)]
            })
            .collect();
        let staged = stage_columns(&rows, &[2, 4]);
        let columns = StagedColumns::parse(&staged, 3, &[2, 4]).unwrap();
        assert_eq!(columns.len(), 3);
        assert_eq!(columns.column(0).nulls, Some(&[0, 1, 0][..]));
        assert_eq!(columns.column(0).values, [7, 0, 0, 0, 7, 0]);
        assert_eq!(columns.column(1).nulls, None);
        assert_eq!(columns.column(1).values, [0, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0]);
        assert!(StagedColumns::parse(&staged, 2, &[2, 4]).is_err());
        assert!(StagedColumns::parse(&staged, 3, &[2]).is_err());
        assert!(StagedColumns::parse(&staged, usize::MAX, &[2, 4]).is_err());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in prop::collection::vec(0_u8..3, 0..120), rows in 0_usize..20,
                                       widths in prop::collection::vec(1_usize..9, 0..4)) {
            if let Ok(columns) = StagedColumns::parse(&bytes, rows, &widths) {
                for (index, width) in widths.iter().enumerate() {
                    prop_assert_eq!(columns.column(index).values.len(), rows * width);
                }
            }
        }
    }
}
