//! Memory that several threads work on.

use std::alloc::{Layout, alloc_zeroed};
use std::cell::UnsafeCell;
use std::ops::Range;

use crate::kernels::foreground::Windows;
use crate::kernels::loss::LossSums;
use crate::kernels::simd::Element;
use crate::network::BuildError;

/// A buffer of which different threads write different parts between two barriers. It begins at a
/// cache line: vectors that straddle two lines cost a fifth of a dense layer's time.
#[derive(Debug)]
pub struct Shared<T> {
    cells: Box<[UnsafeCell<T>]>,
    /// Where the first cache line begins.
    start: usize,
    len: usize,
}

/// Bytes of a cache line.
const LINE: usize = 64;

// SAFETY: all access is through the unsafe methods, whose callers keep writers apart.
unsafe impl<T: Send + Sync> Sync for Shared<T> {}

impl<T: Element> Shared<T> {
    /// So many zeros.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn zeros(len: usize) -> Result<Self, BuildError> {
        // SAFETY: floating-point numbers whose bytes are zero are zero.
        unsafe { Self::zeroed(len) }
    }
}

impl Shared<LossSums> {
    /// So many of no rows.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn empty_sums(len: usize) -> Result<Self, BuildError> {
        // SAFETY: they are numbers, which are zero if their bytes are.
        unsafe { Self::zeroed(len) }
    }
}

impl Shared<Windows> {
    /// So many empty sets.
    ///
    /// # Errors
    /// If there is not enough memory.
    pub fn empty_sets(len: usize) -> Result<Self, BuildError> {
        // SAFETY: a set is words, which are zero if their bytes are.
        unsafe { Self::zeroed(len) }
    }
}

impl<T> Shared<T> {
    /// So many whose bytes are zero.
    ///
    /// # Safety
    /// That is a value of the type.
    unsafe fn zeroed(len: usize) -> Result<Self, BuildError> {
        let too_much = || BuildError::Memory { bytes: len.saturating_mul(size_of::<T>()) };
        let room = len.saturating_add(LINE.div_ceil(size_of::<T>()));
        let layout = Layout::array::<UnsafeCell<T>>(room).map_err(|_| too_much())?;
        // SAFETY: the layout has a size: there is room for a line at least.
        let cells = unsafe { alloc_zeroed(layout) }.cast::<UnsafeCell<T>>();
        if cells.is_null() {
            return Err(too_much());
        }
        // SAFETY: it was allocated with the layout of such a slice, and the caller's promise. The
        // system clears pages only when they are first used.
        let cells = unsafe { Box::from_raw(std::ptr::slice_from_raw_parts_mut(cells, room)) };
        let start = cells.as_ptr().align_offset(LINE).min(room - len);
        Ok(Self { cells, start, len })
    }

    /// Elements.
    pub fn len(&self) -> usize {
        self.len
    }

    /// A part's cells. Panics if it is not inside.
    #[inline(always)]
    fn part(&self, part: Range<usize>) -> &[UnsafeCell<T>] {
        &self.cells[self.start..][..self.len][part]
    }

    /// All of it, by the only one who has it.
    pub fn get_mut(&mut self) -> &mut [T] {
        let len = self.len();
        // SAFETY: `self` is borrowed mutably.
        unsafe { self.write(0..len) }
    }

    /// A part.
    ///
    /// # Safety
    /// Nobody writes to it while the slice lives.
    #[inline(always)]
    pub unsafe fn read(&self, part: Range<usize>) -> &[T] {
        let cells = self.part(part);
        // SAFETY: UnsafeCell<T> has T's layout, and by the caller's promise nobody writes here.
        unsafe { std::slice::from_raw_parts(cells.as_ptr().cast(), cells.len()) }
    }

    /// A part, to be written.
    ///
    /// # Safety
    /// Nobody else reads or writes it while the slice lives.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn write(&self, part: Range<usize>) -> &mut [T] {
        let cells = self.part(part);
        // SAFETY: UnsafeCell<T> has T's layout and may be written through a shared reference; by
        // the caller's promise nobody else does.
        unsafe { std::slice::from_raw_parts_mut(UnsafeCell::raw_get(cells.as_ptr()), cells.len()) }
    }
}
