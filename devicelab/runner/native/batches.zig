//! A shard's examples in the order of an epoch, cut into batches.

const std = @import("std");
const shuffle = @import("shuffle.zig");

pub const Batch = struct {
    examples: []const u32,
    fresh: u32, // how many are not there only to fill up a fixed batch
    begins_epoch: bool,
};

pub const Batches = struct {
    order: []u32,
    fill: []u32, // a fixed batch is put together here; empty if batches may be ragged
    batch: u32,
    seed: ?u64, // null keeps the shard's order
    epoch: u64 = 0,
    position: usize,

    /// Args: memory for the order of a shard; memory for a fixed batch, or none; the size of a full batch.
    pub fn init(order: []u32, fill: []u32, batch: u32, seed: ?u64) Batches {
        std.debug.assert(order.len > 0);
        std.debug.assert(batch > 0);
        std.debug.assert(fill.len == 0 or fill.len == batch);
        return .{ .order = order, .fill = fill, .batch = batch, .seed = seed, .position = order.len };
    }

    pub fn perEpoch(examples: u32, batch: u32) u64 {
        return std.math.divCeil(u64, examples, batch) catch unreachable;
    }

    /// The next batch, of the next epoch where one has ended.
    pub fn next(batches: *Batches) Batch {
        const begins = batches.position == batches.order.len;
        if (begins) batches.begin();
        const left = batches.order.len - batches.position;
        const fresh: u32 = @intCast(@min(left, batches.batch));
        const examples = batches.order[batches.position..][0..fresh];
        batches.position += fresh;
        if (batches.fill.len == 0) return .{ .examples = examples, .fresh = fresh, .begins_epoch = begins };
        for (batches.fill, 0..) |*place, i| {
            place.* = if (i < fresh) examples[i] else batches.order[(i - fresh) % batches.order.len];
        }
        return .{ .examples = batches.fill, .fresh = fresh, .begins_epoch = begins };
    }

    fn begin(batches: *Batches) void {
        if (batches.seed) |seed| {
            shuffle.permute(batches.order, seed, batches.epoch);
        } else if (batches.epoch == 0) {
            shuffle.identity(batches.order);
        }
        batches.epoch += 1;
        batches.position = 0;
    }
};
