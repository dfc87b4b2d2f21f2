//! Memory for entities' events: blocks of a cache line, cut from large pieces that the system is asked to back
//! with huge pages. Entities are met in no order, so most of what they cost is looking up where their memory is:
//! with pages of 2 MiB the processor knows by heart, with pages of 4 KiB it does not.

#![expect(
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    reason = "blocks are below the number of those that were made, which a u32 counts"
)]

use memmap2::MmapMut;

/// Words of a block.
const BLOCK: usize = 8;
/// Blocks of a piece: 4 MiB.
const PIECE: u32 = 1 << 16;
/// Sizes that are given out, in blocks.
const SIZES: [u32; 33] = [
    0, 1, 2, 3, 4, 5, 6, 7, 8, 10, 12, 14, 16, 20, 24, 28, 32, 40, 48, 56, 64, 80, 96, 112, 128, 160, 192, 224, 256,
    320, 384, 448, 512,
];

/// The most words that can be had together.
pub(super) const MOST_WORDS: usize = SIZES[SIZES.len() - 1] as usize * BLOCK;

/// Some words in an arena.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Span {
    block: u32,
    size: u8,
}

impl Span {
    /// How many words it has.
    pub fn words(self) -> usize {
        SIZES[usize::from(self.size)] as usize * BLOCK
    }
}

/// Blocks of a page: small spans come from pages of one size, so that a page whose spans have all been given back
/// serves another size.
const PAGE: u32 = 64;
/// The largest size, in blocks, that comes from pages.
const SMALL: u32 = 16;

/// What is free of a page: a bit a span.
#[derive(Debug, Clone, Copy)]
struct Page {
    size: u8,
    free: u64,
}

/// Hands out spans of words.
#[derive(Debug, Default)]
pub(super) struct Arena {
    pieces: Vec<MmapMut>,
    /// Blocks of the last piece that were never given out.
    fresh: std::ops::Range<u32>,
    /// By number: what is known of each page that small spans come from.
    pages: Vec<Page>,
    /// By size: pages that had something free, some of which may have nothing now or serve another size.
    partly: Vec<Vec<u32>>,
    /// Pages with nothing given out.
    empty: Vec<u32>,
    /// By size: spans larger than [`SMALL`] that were given back.
    free: Vec<Vec<u32>>,
}

impl Arena {
    #[inline]
    pub fn words(&self, span: Span) -> &[u64] {
        if span.size == 0 {
            return &[];
        }
        let from = (span.block % PIECE) as usize * BLOCK;
        let piece: &[u64] = bytemuck::cast_slice(&self.pieces[(span.block / PIECE) as usize]);
        &piece[from..from + span.words()]
    }

    #[inline]
    pub fn words_mut(&mut self, span: Span) -> &mut [u64] {
        if span.size == 0 {
            return &mut [];
        }
        let from = (span.block % PIECE) as usize * BLOCK;
        let piece: &mut [u64] = bytemuck::cast_slice_mut(&mut self.pieces[(span.block / PIECE) as usize]);
        &mut piece[from..from + span.words()]
    }

    /// Room for at least `words`, at most [`MOST_WORDS`], with anything in it.
    pub fn take(&mut self, words: usize) -> Span {
        if self.free.is_empty() {
            self.free.resize_with(SIZES.len(), Vec::new);
            self.partly.resize_with(SIZES.len(), Vec::new);
        }
        let size = SIZES.partition_point(|size| (*size as usize) * BLOCK < words).min(SIZES.len() - 1);
        let blocks = SIZES[size];
        let block = if blocks == 0 {
            0
        } else if blocks <= SMALL {
            self.take_small(size)
        } else if let Some(block) = self.free[size].pop() {
            block
        } else {
            self.take_fresh(blocks.next_multiple_of(PAGE))
        };
        Span { block, size: size as u8 }
    }

    fn take_small(&mut self, size: usize) -> u32 {
        let blocks = SIZES[size];
        while let Some(number) = self.partly[size].last().copied() {
            let page = &mut self.pages[number as usize];
            if usize::from(page.size) == size && page.free != 0 {
                let slot = page.free.trailing_zeros();
                page.free &= page.free - 1;
                return number * PAGE + slot * blocks;
            }
            self.partly[size].pop();
        }
        let number = self.empty.pop().unwrap_or_else(|| self.take_fresh(PAGE) / PAGE);
        if self.pages.len() <= number as usize {
            self.pages.resize(number as usize + 1, Page { size: 0, free: 0 });
        }
        self.pages[number as usize] = Page { size: size as u8, free: whole(blocks) & !1 };
        self.partly[size].push(number);
        number * PAGE
    }

    /// Whole pages that were never given out.
    fn take_fresh(&mut self, blocks: u32) -> u32 {
        if self.fresh.end - self.fresh.start < blocks {
            self.add_piece();
        }
        let block = self.fresh.start;
        self.fresh.start += blocks;
        block
    }

    /// Takes back what nobody uses any more.
    pub fn give_back(&mut self, span: Span) {
        let (size, blocks) = (usize::from(span.size), SIZES[usize::from(span.size)]);
        if blocks == 0 {
            return;
        }
        if blocks > SMALL {
            self.free[size].push(span.block);
            return;
        }
        let number = span.block / PAGE;
        let page = &mut self.pages[number as usize];
        let had_none = page.free == 0;
        page.free |= 1 << (span.block % PAGE / blocks);
        if page.free == whole(blocks) {
            page.size = 0;
            self.empty.push(number);
        } else if had_none {
            self.partly[size].push(number);
        }
    }

    /// Room for more words with the first `used` of `span` in it.
    pub fn grow(&mut self, span: Span, used: usize, words: usize) -> Span {
        let grown = self.take(words);
        let used = used.min(span.words()).min(grown.words());
        let mut copied = [0; 64];
        for at in (0..used).step_by(copied.len()) {
            let to = used.min(at + copied.len());
            copied[..to - at].copy_from_slice(&self.words(span)[at..to]);
            self.words_mut(grown)[at..to].copy_from_slice(&copied[..to - at]);
        }
        self.give_back(span);
        grown
    }

    /// Bytes held, given out or not; memory that was never touched is not counted.
    pub fn memory_bytes(&self) -> usize {
        let made = self.pieces.len() * PIECE as usize - (self.fresh.end - self.fresh.start) as usize;
        let lists = self.free.iter().chain(&self.partly).chain([&self.empty]).map(|list| list.capacity() * 4);
        made * BLOCK * 8 + lists.sum::<usize>() + self.pages.capacity() * size_of::<Page>()
    }

    fn add_piece(&mut self) {
        // What is left of the last piece goes to small spans.
        while self.fresh.end - self.fresh.start >= PAGE {
            let number = self.fresh.start / PAGE;
            if self.pages.len() <= number as usize {
                self.pages.resize(number as usize + 1, Page { size: 0, free: 0 });
            }
            self.empty.push(number);
            self.fresh.start += PAGE;
        }
        let bytes = PIECE as usize * BLOCK * 8;
        let layout = std::alloc::Layout::array::<u64>(bytes / 8).unwrap_or(std::alloc::Layout::new::<u64>());
        let piece = MmapMut::map_anon(bytes).unwrap_or_else(|_| std::alloc::handle_alloc_error(layout));
        // It is only a wish: without huge pages all is the same, but slower.
        #[cfg(target_os = "linux")]
        let _ = piece.advise(memmap2::Advice::HugePage);
        let first = self.pieces.len() as u32 * PIECE;
        self.pieces.push(piece);
        self.fresh = first..first + PIECE;
    }
}

/// All spans of a page free.
fn whole(blocks: u32) -> u64 {
    let spans = PAGE / blocks;
    if spans == 64 { u64::MAX } else { (1 << spans) - 1 }
}

#[cfg(test)]
mod tests {
    use super::{Arena, MOST_WORDS, Span};

    #[test]
    fn spans_do_not_overlap_and_keep_what_is_written_while_others_grow() {
        let mut arena = Arena::default();
        let mut spans: Vec<(Span, usize)> = (0..3_000).map(|_| (Span::default(), 0)).collect();
        let mut random = 1_u64;
        for step in 0..60_000_u64 {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(step | 1);
            let which = usize::try_from(random >> 33).expect("fits") % spans.len();
            let (span, used) = &mut spans[which];
            if *used > 200 || random.is_multiple_of(97) {
                arena.give_back(*span);
                (*span, *used) = (Span::default(), 0);
            }
            if *used == span.words() {
                *span = arena.grow(*span, *used, *used + 3);
            }
            arena.words_mut(*span)[*used] = which as u64;
            *used += 1;
        }
        for (which, (span, used)) in spans.iter().enumerate() {
            assert!(arena.words(*span)[..*used].iter().all(|word| *word == which as u64));
        }
        assert_eq!(arena.take(MOST_WORDS).words(), MOST_WORDS);
        // Once all is given back, what was made serves spans of any size.
        for (span, _) in spans {
            arena.give_back(span);
        }
        let made = arena.memory_bytes();
        let many: Vec<Span> = (0..900).map(|_| arena.take(60)).collect();
        assert!(arena.memory_bytes() <= made + made / 8, "{made} became {}", arena.memory_bytes());
        let mut places: Vec<u32> = many.iter().map(|span| span.block).collect();
        places.sort_unstable();
        assert!(places.windows(2).all(|two| two[1] - two[0] >= 8));
    }
}
