//! The plan's signature: what each input and output of the graph is for. The same rules as
//! devicelab/plans/signature.py, which writes it.

const std = @import("std");
const dtypes = @import("dtype.zig");
const failures = @import("failure.zig");
const Parser = @import("signature_reader.zig").Parser;
const rules = @import("signature_rules.zig");

const Dtype = dtypes.Dtype;
const Failure = failures.Failure;
const Shape = dtypes.Shape;
const fail = failures.fail;

pub const metadata_key = "devicelab.signature";
pub const bytes_max = 16 << 20;
pub const inputs_max = 4096;
pub const outputs_max = 4096;
pub const name_bytes_max = 1024;
pub const table_bytes_max = 100;
pub const rows_prefix = "rows/"; // names of tensors that list a table's rows, so of no value

pub const Kind = enum { train, evaluate };

pub const Role = enum {
    parameter,
    private,
    buffer,
    state,
    anchor,
    data,
    hyper,
    loss,
    metric,

    pub fn isCarried(role: Role) bool {
        return switch (role) {
            .parameter, .private, .buffer, .state => true,
            else => false,
        };
    }
};

pub const Part = enum { sum, count };

pub const Input = struct {
    name: [:0]const u8,
    role: Role,
    dtype: Dtype,
    shape: Shape, // of data with any number of examples: the first size is 0; of tables: the job's, once it is known
    any_batch: bool = false,
    default: ?f64 = null,
    of: ?u32 = null, // of an anchor: the index of its parameter
    range: ?[2]i64 = null,
    rows: ?[]const u8 = null, // the table whose rows it has, or, of data, whose rows' numbers it holds

    /// The name without its prefix.
    pub fn label(input: *const Input) []const u8 {
        const slash = std.mem.indexOfScalar(u8, input.name, '/') orelse return input.name;
        return if (slash + 1 == input.name.len) input.name else input.name[slash + 1 ..];
    }

    /// Whether it has a row for each of a table's.
    pub fn isTable(input: *const Input) bool {
        return input.rows != null and input.role != .data;
    }

    /// Whether its first size is not the graph's to say.
    pub fn anyFirst(input: *const Input) bool {
        return input.any_batch or input.isTable();
    }

    /// Whether what is learned of it leaves the device: parameters, and buffers that can be averaged.
    pub fn isShared(input: *const Input) bool {
        return switch (input.role) {
            .parameter => true,
            .buffer => input.dtype.isFloat(),
            else => false,
        };
    }
};

pub const Output = struct {
    name: [:0]const u8,
    role: Role,
    dtype: Dtype,
    shape: Shape,
    replaces: ?u32 = null, // the index of an input
    in_place: bool = false,
    any_first: bool = false, // whether its first size is not the graph's to say
    metric: ?[]const u8 = null,
    part: ?Part = null,
};

pub const Signature = struct {
    name: []const u8 = "",
    kind: Kind = .train,
    batch: ?u32 = null,
    inputs: []Input = &.{},
    outputs: []Output = &.{},

    pub fn findInput(signature: *const Signature, name: []const u8) ?u32 {
        for (signature.inputs, 0..) |*input, i| {
            if (std.mem.eql(u8, input.name, name)) return @intCast(i);
        }
        return null;
    }

    /// How many rows a table has; null if there is none of that name.
    pub fn tableSize(signature: *const Signature, table: []const u8) ?u64 {
        for (signature.inputs) |*input| {
            if (input.isTable() and std.mem.eql(u8, input.rows.?, table)) return input.shape.sizes[0];
        }
        return null;
    }
};

/// Parses and checks; what it returns may be relied on.
pub fn parse(arena: std.mem.Allocator, text: []const u8) Failure!Signature {
    if (text.len > bytes_max) return fail(error.Input, "the signature is longer than {} bytes", .{bytes_max});
    var parser: Parser = .init(arena, text);
    const signature = try parser.parse();
    try rules.check(&signature);
    return signature;
}
