//! Messages whose metadata is not text.
//!
//! Arrow says that names and metadata are UTF-8; pyarrow writes metadata of any bytes. Such metadata means nothing to
//! Spark, so it must not stop anybody: its bad bytes become `?` in a copy of the message. A name is another matter.

use arrow_buffer::Buffer;
use flatbuffers::{ErrorTraceDetail, InvalidFlatbuffer};

use super::ColumnError;

/// The same message with text for metadata; the very same buffer where that is true already.
pub(super) fn readable_message(message: Buffer) -> Result<Buffer, ColumnError> {
    let Err(mut bad) = arrow_ipc::root_as_message(&message) else {
        return Ok(message);
    };
    let mut bytes = message.to_vec();
    // Each round mends one string for good, and there are finitely many.
    loop {
        let InvalidFlatbuffer::Utf8Error {
            range, error_trace, ..
        } = &bad
        else {
            return Err(ColumnError::BadStream(bad.to_string()));
        };
        if !is_metadata(error_trace.as_ref()) {
            let name = String::from_utf8_lossy(&bytes[range.clone()]).into_owned();
            return Err(ColumnError::BadName(name));
        }
        replace_bad_bytes(&mut bytes[range.clone()]);
        bad = match arrow_ipc::root_as_message(&bytes) {
            Ok(_) => break,
            Err(problem) => problem,
        };
    }
    Ok(Buffer::from_vec(bytes))
}

/// Whether the string is a key or value of a `KeyValue`. The trace names the innermost field first.
fn is_metadata(trace: &[ErrorTraceDetail]) -> bool {
    let innermost = trace.iter().find_map(|detail| match detail {
        ErrorTraceDetail::TableField { field_name, .. } => Some(field_name.as_ref()),
        _ => None,
    });
    matches!(innermost, Some("key" | "value"))
}

/// Length stays, because the message has offsets to what follows.
fn replace_bad_bytes(text: &mut [u8]) {
    let mut from = 0;
    while let Err(error) = std::str::from_utf8(&text[from..]) {
        let start = from + error.valid_up_to();
        let len = error.error_len().unwrap_or(text.len() - start);
        text[start..start + len].fill(b'?');
        from = start + len;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bad_bytes_are_replaced_and_good_text_stays() {
        for (given, wanted) in [
            (&b"\xff"[..], &b"?"[..]),
            (b"a\xffb\xfe\xfd", b"a?b??"),
            (b"\xe6\xbc", b"??"),
            ("漢\u{1f389}".as_bytes(), "漢\u{1f389}".as_bytes()),
            (b"", b""),
        ] {
            let mut text = given.to_vec();
            replace_bad_bytes(&mut text);
            assert_eq!(text, wanted);
        }
    }
}
