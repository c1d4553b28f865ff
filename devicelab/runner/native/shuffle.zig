//! The order of a shard's examples in an epoch, from a counter-based generator. Its twin is
//! devicelab/runner/shuffle.py.

const std = @import("std");

const golden: u64 = 0x9E3779B97F4A7C15;

/// SplitMix64's finalizer (Steele, Lea & Flood 2014).
fn mix(start: u64) u64 {
    var z = start;
    z ^= z >> 30;
    z *%= 0xBF58476D1CE4E5B9;
    z ^= z >> 27;
    z *%= 0x94D049BB133111EB;
    return z ^ (z >> 31);
}

/// Fills `order` with a permutation (Fisher & Yates 1938, from the end).
pub fn permute(order: []u32, seed: u64, epoch: u64) void {
    identity(order);
    const key = mix(seed +% golden *% (epoch +% 1));
    var i = order.len;
    while (i > 1) : (i -= 1) {
        const k: u64 = order.len - i;
        const random = mix(key +% golden *% (k +% 1));
        const j: usize = @intCast((@as(u128, random) * i) >> 64);
        std.debug.assert(j < i);
        std.mem.swap(u32, &order[i - 1], &order[j]);
    }
}

pub fn identity(order: []u32) void {
    for (order, 0..) |*place, i| place.* = @intCast(i);
}
