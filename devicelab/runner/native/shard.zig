//! A client's data, and the buffers into which a step's examples are gathered.

const std = @import("std");
const dtypes = @import("dtype.zig");
const failures = @import("failure.zig");
const files = @import("files.zig");
const Arena = @import("memory.zig").Arena;
const ort = @import("ort.zig");
const safetensors = @import("safetensors.zig");
const shapePart = @import("text.zig").shapePart;
const signatures = @import("signature.zig");
const tables = @import("tables.zig");

const Failure = failures.Failure;
const Input = signatures.Input;
const Selection = tables.Selection;
const Signature = signatures.Signature;
const Tensors = safetensors.Tensors;
const fail = failures.fail;

pub const examples_max = std.math.maxInt(u32);

/// A file that is open; its tensors' names, and what is renumbered of it, are in an arena of its own.
pub const Shard = struct {
    file: []const u8 = &.{},
    tensors: Tensors,
    examples: u32,
    renumbered: []const Renumbered,

    pub fn open(
        arena: *Arena,
        path: [:0]const u8,
        plans: []const *const Signature,
        selections: []const Selection,
    ) Failure!Shard {
        const file = try files.map(path, std.math.maxInt(u64));
        errdefer files.unmap(file);
        const tensors = try safetensors.parse(arena.allocator(), file, path);
        var shard = try check(arena, &tensors, plans, selections);
        shard.file = file;
        return shard;
    }

    /// A shard of tensors that are in memory already.
    pub fn check(
        arena: *Arena,
        tensors: *const Tensors,
        plans: []const *const Signature,
        selections: []const Selection,
    ) Failure!Shard {
        var examples: ?u32 = null;
        var renumbered: std.ArrayList(Renumbered) = .empty;
        for (plans) |signature| {
            for (signature.inputs) |*input| {
                if (input.role != .data) continue;
                try checkTensor(tensors, input, &examples);
                const selection = tables.find(selections, input.rows) orelse continue;
                if (findRenumbered(renumbered.items, input) == null)
                    try renumbered.append(arena.allocator(), try renumber(arena, tensors, input, selection));
            }
        }
        return .{ .tensors = tensors.*, .examples = examples.?, .renumbered = renumbered.items };
    }

    pub fn close(shard: *Shard) void {
        files.unmap(shard.file);
    }

    /// What a plan is fed of an input: the shard's tensor, but for rows that have other numbers in this job.
    pub fn source(shard: *const Shard, input: *const Input) []const u8 {
        const original = shard.tensors.bytes(shard.tensors.find(input.label()).?);
        const places = findRenumbered(shard.renumbered, input) orelse return original;
        std.debug.assert(places.len == original.len);
        return places;
    }
};

/// Numbers of rows as places among those of the table that the job has.
const Renumbered = struct { label: []const u8, table: []const u8, bytes: []const u8 };

fn findRenumbered(renumbered: []const Renumbered, input: *const Input) ?[]const u8 {
    const table = input.rows orelse return null;
    for (renumbered) |*each| {
        if (std.mem.eql(u8, each.label, input.label()) and std.mem.eql(u8, each.table, table)) return each.bytes;
    }
    return null;
}

fn renumber(
    arena: *Arena,
    tensors: *const Tensors,
    input: *const Input,
    selection: *const Selection,
) Failure!Renumbered {
    const label = input.label();
    const numbers = tensors.bytes(tensors.find(label).?);
    const places = try arena.tensor(numbers.len);
    const missing = switch (input.dtype) {
        .i64 => selection.renumber(i64, @ptrCast(numbers), @ptrCast(places)),
        .i32 => selection.renumber(i32, @ptrCast(numbers), @ptrCast(places)),
        else => unreachable, // the signature's check
    };
    if (missing) |number| return fail(
        error.Input,
        "{}: \"{}\" holds {}, which is none of the job's {} rows of table \"{}\"",
        .{ tensors.path, label, number, selection.rows.len, selection.table },
    );
    return .{ .label = label, .table = selection.table, .bytes = places };
}

fn checkTensor(tensors: *const Tensors, input: *const Input, examples: *?u32) Failure!void {
    const label = input.label();
    const tensor = tensors.find(label) orelse return fail(error.Input, "{}: it lacks \"{}\"", .{ tensors.path, label });
    const row = input.shape.slice()[1..];
    const fits = tensor.dtype == input.dtype and tensor.shape.rank == input.shape.rank and
        std.mem.eql(u64, tensor.shape.slice()[1..], row);
    if (!fits) return fail(error.Input, "{}: \"{}\" is {}{}, the plan's examples are {}{}", .{
        tensors.path, label, tensor.dtype.label(), shapePart(&tensor.shape), input.dtype.label(), shapePart(&.of(row)),
    });
    const count = tensor.shape.sizes[0];
    if (count == 0) return fail(error.Input, "{}: it holds no examples", .{tensors.path});
    if (count > examples_max) return fail(error.Input, "{}: more than {} examples", .{ tensors.path, examples_max });
    if (examples.*) |others| if (others != count)
        return fail(
            error.Input,
            "{}: \"{}\" holds {} examples, another tensor {}",
            .{ tensors.path, label, count, others },
        );
    examples.* = @intCast(count);
    if (input.range) |range| try checkRange(tensors, label, input.dtype, tensors.bytes(tensor), range);
}

fn checkRange(
    tensors: *const Tensors,
    label: []const u8,
    dtype: dtypes.Dtype,
    bytes: []const u8,
    range: [2]i64,
) Failure!void {
    const outside = switch (dtype) {
        .i64 => firstOutside(i64, bytes, range),
        .i32 => firstOutside(i32, bytes, range),
        else => unreachable, // the signature's check
    } orelse return;
    return fail(error.Input, "{}: \"{}\" holds {}, the plan takes {} to {}", .{
        tensors.path, label, outside, range[0], range[1],
    });
}

fn firstOutside(comptime T: type, bytes: []const u8, range: [2]i64) ?i64 {
    const numbers: []align(1) const T = @ptrCast(bytes);
    for (numbers) |number| {
        if (number < range[0] or number > range[1]) return number;
    }
    return null;
}

/// One data input's place in memory.
const Slot = struct {
    input: *const Input,
    row_bytes: usize,
    source: []const u8 = &.{},
    buffer: []align(64) u8 = &.{},
};

/// Gathers the examples of a step for one plan.
pub const Gatherer = struct {
    slots: []Slot,
    rows: usize = 0, // how many the buffers hold

    pub fn init(arena: *Arena, signature: *const Signature) Failure!Gatherer {
        var slots: std.ArrayList(Slot) = .empty;
        for (signature.inputs) |*input| {
            if (input.role != .data) continue;
            const row: dtypes.Shape = .of(input.shape.slice()[1..]);
            const row_bytes = row.bytes(input.dtype) orelse
                return fail(error.Input, "\"{}\": an example is too large", .{input.name});
            try slots.append(arena.allocator(), .{ .input = input, .row_bytes = row_bytes });
        }
        return .{ .slots = slots.items };
    }

    /// Makes sure that the buffers hold so many examples, of `rows_max` at most. True if they are new ones.
    pub fn reserve(gatherer: *Gatherer, arena: *Arena, rows: usize, rows_max: usize) Failure!bool {
        if (rows <= gatherer.rows) return false;
        // Old buffers are not given back, so these are twice as large.
        const room = @max(rows, @min(2 * gatherer.rows, rows_max));
        for (gatherer.slots) |*slot| {
            const bytes = std.math.mul(usize, slot.row_bytes, room) catch return error.OutOfMemory;
            slot.buffer = try arena.tensor(bytes);
        }
        gatherer.rows = room;
        return true;
    }

    pub fn use(gatherer: *Gatherer, shard: *const Shard) void {
        for (gatherer.slots) |*slot| {
            slot.source = shard.source(slot.input);
        }
    }

    /// Tensors around the first examples of the buffers.
    pub fn tensor(slot: *const Slot, rows: usize) Failure!*ort.Value {
        var shape = slot.input.shape;
        shape.sizes[0] = rows;
        return ort.tensor(slot.buffer[0 .. rows * slot.row_bytes], slot.input.dtype, &shape);
    }

    /// Copies examples into the first rows of the buffers.
    pub fn gather(gatherer: *Gatherer, examples: []const u32) void {
        std.debug.assert(examples.len <= gatherer.rows);
        for (gatherer.slots) |*slot| {
            const bytes = slot.row_bytes;
            for (examples, 0..) |example, row| {
                @memcpy(slot.buffer[row * bytes ..][0..bytes], slot.source[example * bytes ..][0..bytes]);
            }
        }
    }
};
