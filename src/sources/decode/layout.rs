//! What stood between the values of records read before.
//!
//! Records of one sender mostly differ in their values only. What stands between two values (a comma, a key,
//! a colon, brackets) says which value comes next, so a record that has the very same bytes there needs no
//! parsing besides its values. The layouts seen are kept as a tree of such pieces, each with its value's
//! place; only those of whole and valid records are. What is reached by the same bytes is reached in the same
//! state of the parser, so that a record that follows the tree to an end is valid, and has no key twice.

use super::digits::window;
use super::fill::Target;

/// What comes after a piece.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Slot {
    /// The record has ended.
    End,
    /// A value that nobody asked for, standing so deep.
    Unmapped(u32),
    /// A value where the mapping goes on into an object: it must be none.
    NoObject(u32),
    /// The value of a target, standing so deep.
    Target(Target, u32),
}

/// A value of a record: where it begins and ends, quotes included.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    pub start: usize,
    pub end: usize,
    pub slot: Slot,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Piece {
    /// The first eight bytes (zeros behind the end), and the last eight.
    head: u64,
    tail: u64,
    /// Which bits of `head` count: shorter pieces have fewer.
    mask: u64,
    /// Where its bytes are in [`Layouts::bytes`].
    from: u32,
    len: u32,
    /// The first of the pieces that may come after it, or [`NONE`].
    pub next: u32,
    /// Another that may stand in its place, or [`NONE`].
    other: u32,
    pub slot: Slot,
}

const NONE: u32 = u32::MAX;
/// At most this many pieces are kept, of at most this many bytes each.
const MAX_PIECES: usize = 512;
const MAX_PIECE: usize = 256;
/// At most this many stand in one place: they are tried one after another.
const MAX_OTHERS: usize = 8;
/// When there is no room for a layout, what is known is kept until this many records had to be parsed, and
/// then forgotten; the next time twice as many. A stream without layouts must not cost much more than parsing.
const PAUSES: std::ops::Range<u32> = 16..16_384;

/// The layouts of a decoder's records.
#[derive(Debug)]
pub(super) struct Layouts {
    pieces: Vec<Piece>,
    bytes: Vec<u8>,
    /// The first of the pieces a record may begin with.
    first: u32,
    /// The places of the record being parsed, for [`learn`](Self::learn).
    places: Vec<Place>,
    /// So many records more are parsed before everything is forgotten; 0 where there is room.
    waits: u32,
    pause: u32,
}

impl Layouts {
    pub fn new() -> Self {
        Self { pieces: Vec::new(), bytes: Vec::new(), first: NONE, places: Vec::new(), waits: 0, pause: PAUSES.start }
    }

    /// Where a record begins; `None` before anything was learned.
    #[inline]
    pub fn first(&self) -> Option<u32> {
        (self.first != NONE).then_some(self.first)
    }

    /// The piece that stands at the start of `bytes`, `from` or one that may be in its place, and what comes
    /// after it.
    #[inline]
    pub fn find<'b>(&self, mut from: u32, bytes: &'b [u8]) -> Option<(&Piece, &'b [u8])> {
        loop {
            let piece = self.pieces.get(from as usize)?;
            if let Some(rest) = self.after(piece, bytes) {
                return Some((piece, rest));
            }
            from = piece.other;
        }
    }

    #[inline]
    fn after<'b>(&self, piece: &Piece, bytes: &'b [u8]) -> Option<&'b [u8]> {
        let len = piece.len as usize;
        let rest = bytes.get(len..)?;
        if window(bytes) & piece.mask != piece.head {
            return None;
        }
        if len > 8 && (window(bytes.get(len - 8..)?) != piece.tail || len > 16 && !self.same(piece, bytes)) {
            return None;
        }
        Some(rest)
    }

    fn same(&self, piece: &Piece, bytes: &[u8]) -> bool {
        let (from, len) = (piece.from as usize, piece.len as usize);
        self.bytes.get(from..from + len).is_some_and(|piece| bytes.starts_with(piece))
    }

    /// Starts a record that is parsed.
    pub fn begin(&mut self) {
        self.places.clear();
    }

    /// Notes a value of the record that is parsed.
    #[inline]
    pub fn note(&mut self, start: usize, end: usize, slot: Slot) {
        if self.places.len() < MAX_PIECES {
            self.places.push(Place { start, end, slot });
        }
    }

    /// Learns the layout of the record whose values were noted. It must be valid.
    pub fn learn(&mut self, record: &[u8]) {
        if self.waits > 0 {
            self.waits -= 1;
            if self.waits == 0 {
                self.forget();
            }
            return;
        }
        let places = std::mem::take(&mut self.places);
        let end = Place { start: record.len(), end: record.len(), slot: Slot::End };
        let mut before: Option<u32> = None;
        let mut at = 0;
        for place in places.iter().chain([&end]) {
            let bytes = record.get(at..place.start).unwrap_or_default();
            if bytes.len() > MAX_PIECE {
                break;
            }
            let Some(piece) = self.piece(before, bytes, place.slot) else {
                self.waits = self.pause;
                self.pause = (self.pause * 2).min(PAUSES.end);
                break;
            };
            before = Some(piece);
            at = place.end;
        }
        self.places = places;
    }

    /// The piece after `before` with these bytes and this slot, a new one if there is none yet. `None` where
    /// there is no room for it.
    fn piece(&mut self, before: Option<u32>, bytes: &[u8], slot: Slot) -> Option<u32> {
        let first = match before {
            None => self.first,
            Some(before) => self.pieces.get(before as usize)?.next,
        };
        let (mut at, mut others) = (first, 0);
        while let Some(piece) = self.pieces.get(at as usize) {
            let from = piece.from as usize;
            if piece.slot == slot && self.bytes.get(from..from + piece.len as usize) == Some(bytes) {
                return Some(at);
            }
            at = piece.other;
            others += 1;
        }
        if others >= MAX_OTHERS || self.pieces.len() >= MAX_PIECES {
            return None;
        }
        let new = u32::try_from(self.pieces.len()).ok()?;
        let mask = if bytes.len() >= 8 { u64::MAX } else { (1 << (8 * bytes.len())) - 1 };
        self.pieces.push(Piece {
            head: window(bytes),
            tail: window(bytes.get(bytes.len().saturating_sub(8)..).unwrap_or_default()),
            mask,
            from: u32::try_from(self.bytes.len()).ok()?,
            len: u32::try_from(bytes.len()).ok()?,
            next: NONE,
            other: first,
            slot,
        });
        self.bytes.extend_from_slice(bytes);
        match before {
            None => self.first = new,
            Some(before) => self.pieces.get_mut(before as usize)?.next = new,
        }
        Some(new)
    }

    #[cold]
    fn forget(&mut self) {
        self.pieces.clear();
        self.bytes.clear();
        self.first = NONE;
    }
}
