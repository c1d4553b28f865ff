//! A plan bound to memory: running a step is one call, and allocates nothing here.
//!
//! There is a binding for either turn of the values' buffers, and for either number of examples that a client's
//! batches have: full, and the rest at the end of an epoch.

const std = @import("std");
const failures = @import("failure.zig");
const Arena = @import("memory.zig").Arena;
const Job = @import("job.zig").Job;
const ort = @import("ort.zig");
const Plan = @import("plan.zig").Plan;
const shards = @import("shard.zig");
const signatures = @import("signature.zig");
const Dtype = @import("dtype.zig").Dtype;
const Value = @import("values.zig").Value;
const Values = @import("values.zig").Values;

const Failure = failures.Failure;
const fail = failures.fail;

/// A single number, as input or output.
const Scalar = struct {
    dtype: Dtype,
    buffer: []align(64) u8,
    tensor: *ort.Value,

    fn init(arena: *Arena, dtype: Dtype) Failure!Scalar {
        const buffer = try arena.tensor(dtype.bytes());
        return .{ .dtype = dtype, .buffer = buffer, .tensor = try ort.tensor(buffer, dtype, &.{}) };
    }

    fn get(scalar: *const Scalar) f64 {
        const bytes = scalar.buffer.ptr;
        return switch (scalar.dtype) {
            .f32 => @as(*const f32, @ptrCast(bytes)).*,
            .f64 => @as(*const f64, @ptrCast(bytes)).*,
            .i64 => @floatFromInt(@as(*const i64, @ptrCast(bytes)).*),
            .i32 => @floatFromInt(@as(*const i32, @ptrCast(bytes)).*),
            .bool => if (bytes[0] != 0) 1 else 0,
            else => unreachable, // not in plans
        };
    }

    /// False where the type has no such number.
    fn set(scalar: *const Scalar, number: f64) bool {
        const bytes = scalar.buffer.ptr;
        switch (scalar.dtype) {
            .f32 => {
                const narrow: f32 = @floatCast(number);
                if (!std.math.isFinite(narrow)) return false;
                @as(*f32, @ptrCast(bytes)).* = narrow;
            },
            .f64 => @as(*f64, @ptrCast(bytes)).* = number,
            .i64 => @as(*i64, @ptrCast(bytes)).* = whole(i64, number) orelse return false,
            .i32 => @as(*i32, @ptrCast(bytes)).* = whole(i32, number) orelse return false,
            .bool => bytes[0] = whole(u1, number) orelse return false,
            else => unreachable, // not in plans
        }
        return true;
    }
};

fn whole(comptime T: type, number: f64) ?T {
    if (@trunc(number) != number or @abs(number) > 1 << 53) return null;
    return std.math.cast(T, @as(i64, @intFromFloat(number)));
}

const Hyper = struct { input: *const signatures.Input, scalar: Scalar };
const Anchor = struct {
    input: *const signatures.Input,
    value: *const Value,
    buffer: []align(64) u8,
    tensor: *ort.Value,
};

/// One metric's parts in the outputs, and what they sum up to.
pub const Metric = struct { name: []const u8, sum: usize, count: usize };

const sizes = 2;

/// How many examples a step takes.
pub const BatchSize = struct {
    examples: u32,
    fixed: bool, // whether it takes no fewer

    pub fn of(plan: *const Plan, job: *const Job) Failure!BatchSize {
        if (plan.signature.batch) |examples| return .{ .examples = examples, .fixed = true };
        const examples = job.batch_size orelse
            return fail(error.Job, "job.json lacks \"batch_size\", which {} needs", .{plan.path});
        return .{ .examples = examples, .fixed = false };
    }

    /// Memory in which a fixed batch is put together; none for others.
    pub fn fill(batch: BatchSize, allocator: std.mem.Allocator) Failure![]u32 {
        return allocator.alloc(u32, if (batch.fixed) batch.examples else 0);
    }

    /// The sizes of a client's batches: full ones, and the last one of an epoch, 0 if that is full as well.
    fn rows(batch: BatchSize, examples: u32) [sizes]usize {
        if (batch.fixed) return .{ batch.examples, 0 };
        const full = @min(examples, batch.examples);
        return .{ full, examples % full };
    }
};

pub const Stepper = struct {
    plan: *const Plan,
    values: *Values,
    gatherer: shards.Gatherer,
    hypers: []const Hyper,
    anchors: []const Anchor,
    outputs: []const Scalar, // by the signature's outputs; those that replace an input have none
    metrics: []const Metric,
    loss: ?usize,
    bindings: [2][sizes]ort.Binding,
    data: [sizes][]?*ort.Value,
    rows: [sizes]usize = @splat(0),

    pub fn init(arena: *Arena, plan: *const Plan, values: *Values, job: *const Job) Failure!Stepper {
        const allocator = arena.allocator();
        const signature = &plan.signature;
        var stepper: Stepper = .{
            .plan = plan,
            .values = values,
            .gatherer = try .init(arena, signature),
            .hypers = try makeHypers(arena, signature, job),
            .anchors = try makeAnchors(arena, signature, values),
            .outputs = try makeOutputs(arena, signature),
            .metrics = try findMetrics(allocator, signature),
            .loss = for (signature.outputs, 0..) |output, i| {
                if (output.role == .loss) break i;
            } else null,
            .bindings = undefined,
            .data = undefined,
        };
        for (&stepper.data) |*tensors| {
            tensors.* = try allocator.alloc(?*ort.Value, stepper.gatherer.slots.len);
            @memset(tensors.*, null);
        }
        for (&stepper.bindings, 0..) |*by_size, turn| {
            for (by_size) |*binding| {
                binding.* = try .init(plan.session);
                try stepper.bind(binding.*, @intCast(turn));
            }
        }
        return stepper;
    }

    fn bind(stepper: *const Stepper, binding: ort.Binding, turn: u1) Failure!void {
        const signature = &stepper.plan.signature;
        for (signature.inputs) |*input| {
            if (!input.role.isCarried()) continue;
            try binding.input(input.name, stepper.values.find(input.name).?.tensors[turn]);
        }
        for (stepper.hypers) |hyper| try binding.input(hyper.input.name, hyper.scalar.tensor);
        for (stepper.anchors) |anchor| try binding.input(anchor.input.name, anchor.tensor);
        for (signature.outputs, stepper.outputs) |*output, scalar| {
            const tensor = if (output.replaces) |index|
                stepper.values.find(signature.inputs[index].name).?.tensors[turn ^ 1]
            else
                scalar.tensor;
            try binding.output(output.name, tensor);
        }
    }

    /// Makes room for a client's batches.
    pub fn prepare(stepper: *Stepper, arena: *Arena, examples: u32, batch: BatchSize) Failure!void {
        const rows_of = batch.rows(examples);
        const moved = try stepper.gatherer.reserve(arena, rows_of[0], batch.examples);
        for (rows_of, 0..) |rows, size| {
            if (rows == 0 or (rows == stepper.rows[size] and !moved)) continue;
            stepper.rows[size] = rows;
            for (stepper.gatherer.slots, stepper.data[size]) |*slot, *tensor| {
                const old = tensor.*;
                tensor.* = try shards.Gatherer.tensor(slot, rows);
                for (0..2) |turn| try stepper.bindings[turn][size].input(slot.input.name, tensor.*.?);
                if (old) |value| ort.release(value);
            }
        }
    }

    /// What is new with a client whose values have just been set.
    pub fn begin(stepper: *Stepper, shard: *const shards.Shard, seed: u64) void {
        stepper.gatherer.use(shard);
        for (stepper.anchors) |anchor| @memcpy(anchor.buffer, stepper.values.present(anchor.value));
        for (stepper.hypers) |hyper| {
            if (!isSeed(hyper.input)) continue;
            @as(*u64, @ptrCast(hyper.scalar.buffer.ptr)).* = seed;
        }
    }

    /// Runs the graph on these examples of the shard. New values take the place of the old ones.
    pub fn step(stepper: *Stepper, examples: []const u32) Failure!void {
        stepper.gatherer.gather(examples);
        const size: usize = if (examples.len == stepper.rows[0]) 0 else 1;
        std.debug.assert(examples.len == stepper.rows[size]);
        try stepper.bindings[stepper.values.turn][size].run();
        if (stepper.plan.signature.kind == .train) stepper.values.turn ^= 1;
    }

    pub fn metricNames(stepper: *const Stepper, allocator: std.mem.Allocator) Failure![]const []const u8 {
        const names = try allocator.alloc([]const u8, stepper.metrics.len);
        for (stepper.metrics, names) |metric, *name| name.* = metric.name;
        return names;
    }

    pub fn number(stepper: *const Stepper, index: usize) f64 {
        return stepper.outputs[index].get();
    }
};

fn isSeed(input: *const signatures.Input) bool {
    return std.mem.eql(u8, input.label(), "seed");
}

fn makeHypers(arena: *Arena, signature: *const signatures.Signature, job: *const Job) Failure![]const Hyper {
    var hypers: std.ArrayList(Hyper) = .empty;
    for (signature.inputs) |*input| {
        if (input.role != .hyper) continue;
        const scalar: Scalar = try .init(arena, input.dtype);
        try hypers.append(arena.allocator(), .{ .input = input, .scalar = scalar });
        if (isSeed(input)) {
            if (input.dtype != .i64) return fail(error.Input, "\"{}\" is no int64", .{input.name});
            continue;
        }
        const number = job.hyper(input.label()) orelse input.default orelse
            return fail(error.Job, "the plan has no default for \"{}\", nor has the job", .{input.label()});
        if (!scalar.set(number)) return fail(error.Job, "\"{}\" cannot be {}", .{ input.label(), number });
    }
    return hypers.items;
}

fn makeAnchors(arena: *Arena, signature: *const signatures.Signature, values: *Values) Failure![]const Anchor {
    var anchors: std.ArrayList(Anchor) = .empty;
    for (signature.inputs) |*input| {
        if (input.role != .anchor) continue;
        const buffer = try arena.tensor(input.shape.bytes(input.dtype).?);
        try anchors.append(arena.allocator(), .{
            .input = input,
            .value = values.find(signature.inputs[input.of.?].name).?,
            .buffer = buffer,
            .tensor = try ort.tensor(buffer, input.dtype, &input.shape),
        });
    }
    return anchors.items;
}

fn makeOutputs(arena: *Arena, signature: *const signatures.Signature) Failure![]const Scalar {
    const outputs = try arena.allocator().alloc(Scalar, signature.outputs.len);
    for (signature.outputs, outputs) |*output, *scalar| {
        scalar.* = if (output.replaces == null) try .init(arena, output.dtype) else undefined;
    }
    return outputs;
}

fn findMetrics(allocator: std.mem.Allocator, signature: *const signatures.Signature) Failure![]const Metric {
    var metrics: std.ArrayList(Metric) = .empty;
    for (signature.outputs, 0..) |*sum, i| {
        if (sum.part != .sum) continue;
        const count = for (signature.outputs, 0..) |*other, k| {
            if (other.part == .count and std.mem.eql(u8, other.metric.?, sum.metric.?)) break k;
        } else unreachable; // the signature's check
        try metrics.append(allocator, .{ .name = sum.metric.?, .sum = i, .count = count });
    }
    return metrics.items;
}

/// Fails where the job sets what no plan has.
pub fn checkHypers(plans: []const *const signatures.Signature, job: *const Job) Failure!void {
    for (job.hypers) |hyper| {
        const known = for (plans) |signature| {
            const found = for (signature.inputs) |*input| {
                if (input.role == .hyper and std.mem.eql(u8, input.label(), hyper.label)) break true;
            } else false;
            if (found) break true;
        } else false;
        if (!known) return fail(error.Job, "the plan has no hyper input \"{}\"", .{hyper.label});
    }
}
