//! Measuring a client's shard with an evaluation plan; and the verb that does nothing else.

const std = @import("std");
const Batches = @import("batches.zig").Batches;
const failures = @import("failure.zig");
const files = @import("files.zig");
const Arena = @import("memory.zig").Arena;
const Job = @import("job.zig").Job;
const Kept = @import("kept.zig").Kept;
const messages = @import("messages.zig");
const plans = @import("plan.zig");
const results = @import("result.zig");
const safetensors = @import("safetensors.zig");
const shards = @import("shard.zig");
const signals = @import("signals.zig");
const stepping = @import("stepper.zig");
const tables = @import("tables.zig");
const values_ = @import("values.zig");

const Failure = failures.Failure;
const Plan = plans.Plan;
const Shard = shards.Shard;
const BatchSize = stepping.BatchSize;
const Stepper = stepping.Stepper;
const Values = values_.Values;
const fail = failures.fail;

/// Measures every client's shard, writes result.json, says done.
pub fn evaluate(arena: *Arena, job: *const Job) Failure!void {
    const allocator = arena.allocator();
    var plan = try plans.load(allocator, job.plan, .evaluate, job.threads);
    const file = try files.map(job.parameters.?, std.math.maxInt(u64));
    const parameters = try safetensors.parse(allocator, file, job.parameters.?);
    const selections = try tables.select(allocator, null, &plan.signature, &parameters);
    var values = try values_.create(arena, null, &plan.signature, &parameters);
    try stepping.checkHypers(&.{&plan.signature}, job);
    var evaluation: Evaluation = try .init(arena, &plan, &values, job);
    var times: results.Times = .{ .start = messages.elapsed() };
    const facts = try allocator.alloc(results.ClientFacts, job.clients.len);
    var order: []u32 = &.{};
    var steps: u64 = 0;
    for (job.clients, facts, 0..) |*client, *fact, index| {
        failures.client = client.id;
        messages.beginClient(client.id, index, job.clients.len);
        const started = messages.elapsed();
        var scratch: Arena = .{};
        defer scratch.reset();
        var shard: Shard = try .open(&scratch, client.shard, &.{&plan.signature}, selections);
        defer shard.close();
        try growOrder(allocator, &order, shard.examples);
        var kept: ?Kept = if (client.kept) |path| try .open(&scratch, path) else null;
        defer if (kept) |*own| own.close();
        try values.reset(if (kept) |*own| &own.tensors else null, false);
        steps += try evaluation.measure(arena, &shard, order[0..shard.examples], client.seed);
        fact.* = .{
            .id = client.id,
            .examples = shard.examples,
            .metrics = try allocator.dupe([2]f64, evaluation.sums),
            .ms = messages.elapsed() - started,
        };
    }
    failures.client = null;
    times.work = messages.elapsed() - times.start;
    var report: results.Report = .{
        .job = job,
        .metrics = try evaluation.stepper.metricNames(allocator),
        .clients = facts,
        .steps = steps,
        .times = times,
    };
    try results.publish(arena, &report);
}

/// What an evaluation plan says of a shard.
pub const Evaluation = struct {
    stepper: Stepper,
    batch: BatchSize,
    fill: []u32,
    sums: [][2]f64, // by metric: sum and count, of the last shard
    before_and_after: bool = false, // of training, whose progress is reported
    loss: f64 = 0, // its mean over the last shard; NaN if the plan measures none

    pub fn init(arena: *Arena, plan: *const Plan, values: *Values, job: *const Job) Failure!Evaluation {
        const stepper: Stepper = try .init(arena, plan, values, job);
        const batch: BatchSize = try .of(plan, job);
        return .{
            .stepper = stepper,
            .batch = batch,
            .fill = try batch.fill(arena.allocator()),
            .sums = try arena.allocator().alloc([2]f64, stepper.metrics.len),
        };
    }

    /// Runs over the whole shard with the present values. Returns the number of steps.
    pub fn measure(
        evaluation: *Evaluation,
        arena: *Arena,
        shard: *const Shard,
        order: []u32,
        seed: u64,
    ) Failure!u64 {
        const stepper = &evaluation.stepper;
        try stepper.prepare(arena, shard.examples, evaluation.batch);
        stepper.begin(shard, seed);
        @memset(evaluation.sums, .{ 0, 0 });
        var batches: Batches = .init(order, evaluation.fill, evaluation.batch.examples, null);
        const steps = Batches.perEpoch(shard.examples, evaluation.batch.examples);
        var weighted_loss: f64 = 0;
        var weight: f64 = 0;
        for (0..@intCast(steps)) |step| {
            try signals.check();
            const batch = batches.next();
            try stepper.step(batch.examples);
            addMetrics(stepper, evaluation.sums);
            const examples: f64 = @floatFromInt(batch.examples.len);
            if (stepper.loss) |loss| weighted_loss += stepper.number(loss) * examples;
            weight += examples;
            if (!evaluation.before_and_after) messages.report(step + 1, steps, std.math.nan(f64), batch.fresh);
        }
        evaluation.loss = if (stepper.loss != null) weighted_loss / weight else evaluation.lossMetric();
        return steps;
    }

    pub fn hasLoss(evaluation: *const Evaluation) bool {
        if (evaluation.stepper.loss != null) return true;
        for (evaluation.stepper.metrics) |metric| {
            if (std.mem.eql(u8, metric.name, "loss")) return true;
        }
        return false;
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

/// Makes sure that there is room for the order of so many examples.
pub fn growOrder(allocator: std.mem.Allocator, order: *[]u32, examples: u32) Failure!void {
    if (order.len >= examples) return;
    // The old memory is not given back, so this is twice as much.
    order.* = try allocator.alloc(u32, @max(examples, @min(2 * order.len, shards.examples_max)));
}
