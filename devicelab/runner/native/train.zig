//! Local training of one or many clients: the verb `train`.

const std = @import("std");
const Batches = @import("batches.zig").Batches;
const evaluations = @import("evaluate.zig");
const failures = @import("failure.zig");
const files = @import("files.zig");
const jobs = @import("job.zig");
const keeping = @import("kept.zig");
const Arena = @import("memory.zig").Arena;
const messages = @import("messages.zig");
const plans = @import("plan.zig");
const results = @import("result.zig");
const safetensors = @import("safetensors.zig");
const shards = @import("shard.zig");
const signals = @import("signals.zig");
const Signature = @import("signature.zig").Signature;
const stepping = @import("stepper.zig");
const sys = @import("sys.zig");
const tables = @import("tables.zig");
const updates = @import("update.zig");
const values_ = @import("values.zig");

const Client = jobs.Client;
const Evaluation = evaluations.Evaluation;
const Failure = failures.Failure;
const Job = jobs.Job;
const BatchSize = stepping.BatchSize;
const Stepper = stepping.Stepper;
const fail = failures.fail;

/// Trains, writes update.safetensors and result.json, says done.
pub fn train(arena: *Arena, job: *const Job) Failure!void {
    var plan = try plans.load(arena.allocator(), job.plan, .train, job.threads);
    var evaluation_plan: ?plans.Plan = if (job.evaluation) |path|
        try plans.load(arena.allocator(), path, .evaluate, job.threads)
    else
        null;
    const file = try files.map(job.parameters.?, std.math.maxInt(u64));
    const parameters = try safetensors.parse(arena.allocator(), file, job.parameters.?);
    const evaluation_signature = if (evaluation_plan) |*loaded| &loaded.signature else null;
    const selections = try tables.select(arena.allocator(), &plan.signature, evaluation_signature, &parameters);
    if (selections.len > 0 and job.state == .keep)
        return fail(error.Job, "state cannot be kept of some rows of table \"{}\"", .{selections[0].table});
    var values = try values_.create(arena, &plan.signature, evaluation_signature, &parameters);
    var evaluation: ?Evaluation = if (evaluation_plan) |*loaded| try measuring(arena, loaded, &values, job) else null;
    const update = try arena.allocator().create(updates.Update);
    var trainer: Trainer = try .init(arena, job, &plan, selections, &values, if (evaluation) |*e| e else null, update);
    try update.init(arena, &values, job.combine, job.clip_norm, job.clients.len);
    errdefer update.writer.abandon();
    try trainer.all();
}

fn measuring(arena: *Arena, plan: *const plans.Plan, values: *values_.Values, job: *const Job) Failure!Evaluation {
    var evaluation: Evaluation = try .init(arena, plan, values, job);
    evaluation.before_and_after = true;
    if (!evaluation.hasLoss()) return fail(error.Input, "{}: it measures no loss", .{plan.path});
    return evaluation;
}

const Trainer = struct {
    arena: *Arena,
    job: *const Job,
    plan: *const plans.Plan,
    signatures: []const *const Signature,
    selections: []const tables.Selection,
    values: *values_.Values,
    stepper: Stepper,
    evaluation: ?*Evaluation,
    update: *updates.Update,
    batch: BatchSize,
    fill: []u32,
    order: []u32 = &.{}, // as long as the largest shard so far
    clients: []results.ClientFacts,
    steps: u64 = 0,
    keep_state: bool,
    keeps: bool,

    fn init(
        arena: *Arena,
        job: *const Job,
        plan: *const plans.Plan,
        selections: []const tables.Selection,
        values: *values_.Values,
        evaluation: ?*Evaluation,
        update: *updates.Update,
    ) Failure!Trainer {
        const allocator = arena.allocator();
        const batch: BatchSize = try .of(plan, job);
        var signatures: std.ArrayList(*const Signature) = .empty;
        try signatures.append(allocator, &plan.signature);
        if (evaluation) |e| try signatures.append(allocator, &e.stepper.plan.signature);
        const keep_state = job.state == .keep;
        const trainer: Trainer = .{
            .arena = arena,
            .job = job,
            .plan = plan,
            .signatures = signatures.items,
            .selections = selections,
            .values = values,
            .stepper = try .init(arena, plan, values, job),
            .evaluation = evaluation,
            .update = update,
            .batch = batch,
            .fill = try batch.fill(allocator),
            .clients = try allocator.alloc(results.ClientFacts, job.clients.len),
            .keep_state = keep_state,
            .keeps = keeping.any(values, keep_state),
        };
        try stepping.checkHypers(trainer.signatures, job);
        if (trainer.keeps) for (job.clients) |*client| {
            if (client.kept == null)
                return fail(
                    error.Job,
                    "client \"{}\" lacks \"kept\": the plan has private values, or the job keeps state",
                    .{client.id},
                );
        };
        return trainer;
    }

    fn all(trainer: *Trainer) Failure!void {
        const job = trainer.job;
        if (trainer.keeps) sys.makeDirectory(keeping.directory) catch
            return fail(error.Output, "{}: {}", .{ keeping.directory, sys.reason() });
        var times: results.Times = .{ .start = messages.elapsed() };
        for (job.clients, trainer.clients, 0..) |*client, *facts, index| {
            failures.client = client.id;
            facts.* = try trainer.one(client, index);
        }
        failures.client = null;
        times.work = messages.elapsed() - times.start;
        const file = try trainer.update.finish();
        if (trainer.keeps) try keeping.sync(job.clients.len);
        times.write = messages.elapsed() - times.start - times.work;
        var report: results.Report = .{
            .job = job,
            .metrics = try trainer.stepper.metricNames(trainer.arena.allocator()),
            .clients = trainer.clients,
            .steps = trainer.steps,
            .times = times,
            .file = file,
        };
        try results.publish(trainer.arena, &report);
    }

    fn one(trainer: *Trainer, client: *const Client, index: usize) Failure!results.ClientFacts {
        const started = messages.elapsed();
        messages.beginClient(client.id, index, trainer.job.clients.len);
        var scratch: Arena = .{};
        defer scratch.reset();
        var shard: shards.Shard = try .open(&scratch, client.shard, trainer.signatures, trainer.selections);
        defer shard.close();
        try trainer.restore(&scratch, client);
        try evaluations.growOrder(trainer.arena.allocator(), &trainer.order, shard.examples);
        const order = trainer.order[0..shard.examples];
        var facts: results.ClientFacts = .{
            .id = client.id,
            .examples = shard.examples,
            .weight = client.weight orelse @floatFromInt(shard.examples),
            .metrics = try trainer.arena.allocator().alloc([2]f64, trainer.stepper.metrics.len),
        };
        facts.loss_before = try trainer.measure(&shard, order, client.seed);
        try trainer.takeSteps(&shard, order, client, &facts);
        try trainer.values.checkFinite(facts.steps);
        facts.loss_after = try trainer.measure(&shard, order, client.seed);
        const change = try trainer.update.add(facts.weight);
        facts.norm = change.norm;
        facts.clipped = change.clipped;
        if (trainer.keeps) try keeping.stage(&scratch, trainer.values, trainer.keep_state, index);
        facts.ms = messages.elapsed() - started;
        return facts;
    }

    fn restore(trainer: *Trainer, scratch: *Arena, client: *const Client) Failure!void {
        var kept: ?keeping.Kept = if (trainer.keeps) try .open(scratch, client.kept.?) else null;
        defer if (kept) |*file| file.close();
        try trainer.values.reset(if (kept) |*file| &file.tensors else null, trainer.keep_state);
    }

    fn measure(trainer: *Trainer, shard: *const shards.Shard, order: []u32, seed: u64) Failure!?f64 {
        const evaluation = trainer.evaluation orelse return null;
        _ = try evaluation.measure(trainer.arena, shard, order, seed);
        return evaluation.loss;
    }

    fn takeSteps(
        trainer: *Trainer,
        shard: *const shards.Shard,
        order: []u32,
        client: *const Client,
        facts: *results.ClientFacts,
    ) Failure!void {
        const stepper = &trainer.stepper;
        try stepper.prepare(trainer.arena, shard.examples, trainer.batch);
        stepper.begin(shard, client.seed);
        const seed = if (trainer.job.shuffle) client.seed else null;
        var batches: Batches = .init(order, trainer.fill, trainer.batch.examples, seed);
        facts.steps = switch (trainer.job.length) {
            .epochs => |epochs| epochs * Batches.perEpoch(shard.examples, trainer.batch.examples),
            .steps => |steps| steps,
        };
        var step: u64 = 0;
        while (step < facts.steps) : (step += 1) {
            try signals.check();
            const batch = batches.next();
            if (batch.begins_epoch) @memset(facts.metrics, .{ 0, 0 });
            try stepper.step(batch.examples);
            const loss = stepper.number(stepper.loss.?);
            if (!std.math.isFinite(loss)) return fail(
                error.NotFinite,
                "the loss is not finite in step {}",
                .{step + 1},
            );
            if (step == 0) facts.loss_first = loss;
            facts.loss_last = loss;
            evaluations.addMetrics(stepper, facts.metrics);
            messages.report(step + 1, facts.steps, loss, batch.fresh);
        }
        trainer.steps += facts.steps;
    }
};
