//! Measuring a client's shard with an evaluation plan; and the verb that does nothing else.

const std = @import("std");
const batches = @import("batches.zig");
const failures = @import("failure.zig");
const Arena = @import("memory.zig").Arena;
const Job = @import("job.zig").Job;
const messages = @import("messages.zig");
const Plan = @import("plan.zig").Plan;
const Shard = @import("shard.zig").Shard;
const signals = @import("signals.zig");
const Stepper = @import("stepper.zig").Stepper;
const Values = @import("values.zig").Values;

const Failure = failures.Failure;
const fail = failures.fail;

/// What an evaluation plan says of a shard.
pub const Evaluation = struct {
    stepper: Stepper,
    batch_size: u32,
    fill: []u32,
    sums: [][2]f64, // by metric: sum and count, of the last shard
    loss: f64 = 0, // its mean over the last shard; NaN if the plan measures none

    pub fn init(arena: *Arena, plan: *const Plan, values: *Values, job: *const Job) Failure!Evaluation {
        const stepper: Stepper = try .init(arena, plan, values, job);
        const batch_size = try batchSize(plan, job);
        return .{
            .stepper = stepper,
            .batch_size = batch_size,
            .fill = try arena.allocator().alloc(u32, if (plan.signature.batch != null) batch_size else 0),
            .sums = try arena.allocator().alloc([2]f64, stepper.metrics.len),
        };
    }

    /// Runs over the whole shard with the present values.
    pub noinline fn measure(evaluation: *Evaluation, arena: *Arena, shard: *const Shard, order: []u32, seed: u64) Failure!void {
        const stepper = &evaluation.stepper;
        const full, const rest = batchRows(shard.examples, evaluation.batch_size, evaluation.fill.len > 0);
        try stepper.prepare(arena, full, rest);
        stepper.begin(shard, seed);
        @memset(evaluation.sums, .{ 0, 0 });
        var total: batches.Batches = .init(order, evaluation.fill, evaluation.batch_size, null);
        var weighted_loss: f64 = 0;
        for (0..@intCast(batches.Batches.perEpoch(shard.examples, evaluation.batch_size))) |_| {
            try signals.check();
            const batch = total.next();
            try stepper.step(batch.examples);
            addMetrics(stepper, evaluation.sums);
            if (stepper.loss) |loss| weighted_loss += stepper.number(loss) * @as(f64, @floatFromInt(batch.examples.len));
        }
        const seen = batches.Batches.perEpoch(shard.examples, evaluation.batch_size) * evaluation.batch_size;
        const counted = if (evaluation.fill.len > 0) seen else shard.examples;
        evaluation.loss = if (stepper.loss != null) weighted_loss / @as(f64, @floatFromInt(counted)) else evaluation.lossMetric();
    }

    fn lossMetric(evaluation: *const Evaluation) f64 {
        for (evaluation.stepper.metrics, evaluation.sums) |metric, numbers| {
            if (std.mem.eql(u8, metric.name, "loss")) return numbers[0] / numbers[1];
        }
        return std.math.nan(f64);
    }
};

/// Adds a step's metrics to their sums and counts.
pub fn addMetrics(stepper: *const Stepper, sums: [][2]f64) void {
    for (stepper.metrics, sums) |metric, *numbers| {
        numbers[0] += stepper.number(metric.sum);
        numbers[1] += stepper.number(metric.count);
    }
}

/// How many examples a full batch has, and the last one of an epoch if it has fewer.
pub fn batchRows(examples: u32, batch_size: u32, fixed: bool) struct { usize, usize } {
    if (fixed) return .{ batch_size, 0 };
    const full = @min(examples, batch_size);
    return .{ full, examples % full };
}

pub fn batchSize(plan: *const Plan, job: *const Job) Failure!u32 {
    return plan.signature.batch orelse job.batch_size orelse
        fail(error.Job, "job.json lacks \"batch_size\", which {} needs", .{plan.path});
}
