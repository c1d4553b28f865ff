//! The values that a job carries from step to step, in memory that both its plans are bound to.

const std = @import("std");
const failures = @import("failure.zig");
const Arena = @import("memory.zig").Arena;
const ort = @import("ort.zig");
const safetensors = @import("safetensors.zig");
const signatures = @import("signature.zig");

const Failure = failures.Failure;
const Tensors = safetensors.Tensors;
const fail = failures.fail;

/// One carried input. It has two buffers that take turns where a step makes a new value of it, one where the step
/// changes it in place or not at all.
pub const Value = struct {
    input: *const signatures.Input,
    first: ?[]const u8, // its value in the parameters' file; zero if null
    buffers: [2][]align(64) u8, // the same one twice, or two
    tensors: [2]*ort.Value,
    trained: bool, // whether the training plan has it

    pub fn isShared(value: *const Value) bool {
        return value.trained and value.input.isShared();
    }
};

pub const Values = struct {
    list: []Value,
    turn: u1 = 0, // which of the two buffers is the present value

    pub fn present(values: *const Values, value: *const Value) []align(64) u8 {
        return value.buffers[values.turn];
    }

    pub fn find(values: *const Values, name: []const u8) ?*Value {
        for (values.list) |*value| {
            if (std.mem.eql(u8, value.input.name, name)) return value;
        }
        return null;
    }

    /// Sets every value to what the client starts from: what it kept, else the parameters' file, else zero.
    pub fn reset(values: *Values, kept: ?*const Tensors, keep_state: bool) Failure!void {
        values.turn = 0;
        for (values.list) |*value| {
            const input = value.input;
            const own = input.role == .private or (input.role == .state and keep_state);
            var source = value.first;
            if (own) if (kept) |tensors| {
                source = try tensors.expect(input.name, input.dtype, &input.shape) orelse source;
            };
            if (source) |bytes| {
                @memcpy(value.buffers[0], bytes);
            } else if (input.role == .state) {
                @memset(value.buffers[0], 0);
            } else {
                return fail(
                    error.Input,
                    "there is no value for \"{}\", neither kept nor in the parameters",
                    .{input.name},
                );
            }
        }
    }

    /// Fails if a value is not finite.
    pub fn checkFinite(values: *const Values, step: u64) Failure!void {
        for (values.list) |*value| {
            const bytes = values.present(value);
            const finite = switch (value.input.dtype) {
                .f32 => allFinite(f32, @ptrCast(bytes)),
                .f64 => allFinite(f64, @ptrCast(bytes)),
                else => true,
            };
            if (!finite) return fail(
                error.NotFinite,
                "\"{}\" is not finite after step {}",
                .{ value.input.name, step },
            );
        }
    }
};

pub fn allFinite(comptime T: type, numbers: []const T) bool {
    for (numbers) |number| {
        if (!std.math.isFinite(number)) return false;
    }
    return true;
}

/// Makes the values of a plan, and of its evaluation if there is one.
pub fn create(
    arena: *Arena,
    training: ?*const signatures.Signature,
    evaluation: ?*const signatures.Signature,
    parameters: *const Tensors,
) Failure!Values {
    const allocator = arena.allocator();
    var list: std.ArrayList(Value) = .empty;
    if (training) |signature| {
        for (signature.inputs, 0..) |*input, index| {
            if (input.role.isCarried()) try list.append(
                allocator,
                try make(arena, input, turns(signature, @intCast(index)), true, parameters),
            );
        }
    }
    const trained = list.items.len;
    if (evaluation) |signature| {
        for (signature.inputs) |*input| {
            if (!input.role.isCarried()) continue;
            const twin = for (list.items[0..trained]) |value| {
                if (std.mem.eql(u8, value.input.name, input.name)) break value.input;
            } else {
                try list.append(allocator, try make(arena, input, false, false, parameters));
                continue;
            };
            if (twin.role != input.role or twin.dtype != input.dtype or !twin.shape.equals(&input.shape))
                return fail(error.Input, "plan and evaluation plan differ in what \"{}\" is", .{input.name});
        }
    }
    return .{ .list = list.items };
}

/// Whether a value needs two buffers.
fn turns(signature: *const signatures.Signature, index: u32) bool {
    for (signature.outputs) |*output| {
        if (output.replaces == index) return !output.in_place;
    }
    return false;
}

fn make(
    arena: *Arena,
    input: *const signatures.Input,
    two: bool,
    trained: bool,
    parameters: *const Tensors,
) Failure!Value {
    const bytes = input.shape.bytes(input.dtype).?;
    const first = try parameters.expect(input.name, input.dtype, &input.shape);
    if (first == null and (input.role == .parameter or input.role == .buffer))
        return fail(error.Input, "{}: it lacks \"{}\"", .{ parameters.path, input.name });
    const front = try arena.tensor(bytes);
    const front_tensor = try ort.tensor(front, input.dtype, &input.shape);
    const back = if (two) try arena.tensor(bytes) else front;
    const back_tensor = if (two) try ort.tensor(back, input.dtype, &input.shape) else front_tensor;
    return .{
        .input = input,
        .first = first,
        .buffers = .{ front, back },
        .tensors = .{ front_tensor, back_tensor },
        .trained = trained,
    };
}
