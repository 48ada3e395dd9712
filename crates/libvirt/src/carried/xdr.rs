//! XDR (RFC 4506) as far as libvirt's protocol needs it: everything bounded, nothing left over.

/// Why bytes are not what was expected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum XdrError {
    /// They end too early.
    #[error("it ends too early")]
    Short,
    /// There are more of them.
    #[error("{0} bytes are left over")]
    LeftOver(usize),
    /// A length beyond what is allowed.
    #[error("a length of {0} where {1} is the most")]
    Long(usize, usize),
    /// A text that is none, or a truth value that is neither.
    #[error("{0}")]
    Value(&'static str),
}

/// Reads a body.
pub(super) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(super) const fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], XdrError> {
        let (taken, rest) = self.0.split_at_checked(length).ok_or(XdrError::Short)?;
        self.0 = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        let (taken, rest) = self.0.split_first_chunk().ok_or(XdrError::Short)?;
        self.0 = rest;
        Ok(*taken)
    }

    pub(super) fn u32(&mut self) -> Result<u32, XdrError> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn i32(&mut self) -> Result<i32, XdrError> {
        self.array().map(i32::from_be_bytes)
    }

    pub(super) fn u64(&mut self) -> Result<u64, XdrError> {
        self.array().map(u64::from_be_bytes)
    }

    pub(super) fn bool(&mut self) -> Result<bool, XdrError> {
        match self.u32()? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(XdrError::Value("a truth value that is neither")),
        }
    }

    /// The number of elements of a list.
    pub(super) fn count(&mut self, max: usize) -> Result<usize, XdrError> {
        // On no platform of ours does a `u32` not fit.
        let count = self.u32()? as usize;
        if count > max { Err(XdrError::Long(count, max)) } else { Ok(count) }
    }

    pub(super) fn bytes(&mut self, max: usize) -> Result<&'a [u8], XdrError> {
        let length = self.count(max)?;
        let bytes = self.take(length)?;
        let padding = self.take(length.next_multiple_of(4) - length)?;
        let zero = padding.iter().all(|byte| *byte == 0);
        if zero { Ok(bytes) } else { Err(XdrError::Value("padding that is not zero")) }
    }

    pub(super) fn fixed<const N: usize>(&mut self) -> Result<[u8; N], XdrError> {
        self.array()
    }

    /// A text. libvirt reads it as ending at a NUL, so that none may be in it.
    pub(super) fn text(&mut self, max: usize) -> Result<&'a str, XdrError> {
        let text = std::str::from_utf8(self.bytes(max)?);
        let text = text.map_err(|_| XdrError::Value("a text that is not UTF-8"))?;
        if text.contains('\0') { Err(XdrError::Value("a NUL in a text")) } else { Ok(text) }
    }

    pub(super) fn maybe_text(&mut self, max: usize) -> Result<Option<&'a str>, XdrError> {
        if self.bool()? { self.text(max).map(Some) } else { Ok(None) }
    }

    /// That there is nothing more.
    pub(super) const fn end(self) -> Result<(), XdrError> {
        if self.0.is_empty() { Ok(()) } else { Err(XdrError::LeftOver(self.0.len())) }
    }
}

/// Writes a body.
#[derive(Default)]
pub(super) struct Writer(Vec<u8>);

impl Writer {
    pub(super) fn u32(mut self, number: u32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn i32(mut self, number: i32) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn u64(mut self, number: u64) -> Self {
        self.0.extend_from_slice(&number.to_be_bytes());
        self
    }

    pub(super) fn bytes(mut self, bytes: &[u8]) -> Self {
        // What is written was read, within limits, or is as short as that.
        self = self.u32(bytes.len() as u32);
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    pub(super) fn fixed(mut self, bytes: &[u8]) -> Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn text(self, text: &str) -> Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn maybe_text(self, text: Option<&str>) -> Self {
        match text {
            Some(text) => self.u32(1).text(text),
            None => self.u32(0),
        }
    }

    pub(super) fn done(self) -> Vec<u8> {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_cut_short_left_over_or_too_long_is_an_error() {
        let body = Writer::default().u32(1).text("abcde").done();
        assert_eq!(body.len(), 16);
        let mut reader = Reader::new(&body);
        assert_eq!(reader.maybe_text(5), Ok(Some("abcde")));
        assert_eq!(reader.end(), Ok(()));
        for end in 0..body.len() {
            assert!(Reader::new(&body[..end]).maybe_text(5).is_err(), "{end} bytes");
        }
        assert_eq!(Reader::new(&body).maybe_text(4), Err(XdrError::Long(5, 4)));
        assert_eq!(Reader::new(&[0; 4]).end(), Err(XdrError::LeftOver(4)));
    }

    #[test]
    fn a_text_with_a_nul_or_dirty_padding_is_none() {
        let nul = Writer::default().bytes(b"a\0b").done();
        assert_eq!(Reader::new(&nul).text(9), Err(XdrError::Value("a NUL in a text")));
        let mut dirty = Writer::default().text("a").done();
        dirty[7] = 1;
        assert_eq!(Reader::new(&dirty).text(9), Err(XdrError::Value("padding that is not zero")));
        let latin = Writer::default().bytes(&[0xe9]).done();
        assert!(Reader::new(&latin).text(9).is_err());
        assert!(Reader::new(&[0, 0, 0, 2]).bool().is_err());
    }

    proptest! {
        #[test]
        fn what_is_written_reads_back(text in "[^\\x00]{0,40}", number in any::<u64>()) {
            let body = Writer::default().text(&text).u64(number).done();
            let mut reader = Reader::new(&body);
            prop_assert_eq!(reader.text(1000), Ok(text.as_str()));
            prop_assert_eq!(reader.u64(), Ok(number));
            prop_assert_eq!(reader.end(), Ok(()));
        }
    }
}
