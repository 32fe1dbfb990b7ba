//! Which instruction set the process uses.

use std::sync::OnceLock;

#[cfg(target_arch = "aarch64")]
use super::Neon;
use super::Scalar;
#[cfg(target_arch = "x86_64")]
use super::{Avx2, Avx512};

/// An instruction set that this machine has.
#[derive(Clone, Copy, Debug)]
pub enum Level {
    /// Plain loops.
    Scalar(Scalar),
    /// 64-bit Arm.
    #[cfg(target_arch = "aarch64")]
    Neon(Neon),
    /// AVX2 with FMA.
    #[cfg(target_arch = "x86_64")]
    Avx2(Avx2),
    /// AVX-512 (F, VL, DQ, BW), and what finds and counts bits (BMI1, BMI2, POPCNT).
    #[cfg(target_arch = "x86_64")]
    Avx512(Avx512),
}

impl Level {
    /// Every instruction set of this machine, slowest first.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut)]
        let mut levels = vec![Self::Scalar(Scalar)];
        #[cfg(target_arch = "aarch64")]
        levels.extend(Neon::detect().map(Self::Neon));
        #[cfg(target_arch = "x86_64")]
        levels.extend(Avx2::detect().map(Self::Avx2));
        #[cfg(target_arch = "x86_64")]
        levels.extend(Avx512::detect().map(Self::Avx512));
        levels
    }

    /// The name that `CNNRS_SIMD` takes.
    pub fn name(self) -> &'static str {
        match self {
            Self::Scalar(_) => "scalar",
            #[cfg(target_arch = "aarch64")]
            Self::Neon(_) => "neon",
            #[cfg(target_arch = "x86_64")]
            Self::Avx2(_) => "avx2",
            #[cfg(target_arch = "x86_64")]
            Self::Avx512(_) => "avx512",
        }
    }
}

/// The process's choice; see [`level`] and [`select`].
static LEVEL: OnceLock<Level> = OnceLock::new();

/// The instruction set in use: the one [`select`] chose, else the fastest.
#[inline]
pub fn level() -> Level {
    *LEVEL.get_or_init(|| Level::available().pop().unwrap_or(Level::Scalar(Scalar)))
}

/// Chooses the instruction set by name, once and before the first kernel runs.
///
/// # Errors
/// A sentence that names the instruction sets of this machine, if `name` is none of them.
pub fn select(name: &str) -> Result<(), String> {
    let levels = Level::available();
    let Some(&level) = levels.iter().find(|level| level.name() == name) else {
        let names: Vec<_> = levels.iter().map(|level| level.name()).collect();
        return Err(format!("expected one of this machine's {}, got {name:?}", names.join(", ")));
    };
    match LEVEL.get_or_init(|| level).name() {
        chosen if chosen == name => Ok(()),
        chosen => Err(format!("expected no other choice after {chosen}, got {name:?}")),
    }
}
