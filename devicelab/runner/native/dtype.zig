//! Element types, by the names that safetensors, numpy and ONNX Runtime have for them.

const std = @import("std");

pub const Dtype = enum(u8) {
    f32,
    f64,
    i64,
    i32,
    bool,
    // from here on only for graphs that are merely run
    f16,
    bf16,
    i16,
    i8,
    u8,
    u16,
    u32,
    u64,

    pub fn bytes(dtype: Dtype) usize {
        return switch (dtype) {
            .bool, .i8, .u8 => 1,
            .f16, .bf16, .i16, .u16 => 2,
            .f32, .i32, .u32 => 4,
            .f64, .i64, .u64 => 8,
        };
    }

    pub fn isFloat(dtype: Dtype) bool {
        return dtype == .f32 or dtype == .f64;
    }

    /// As in safetensors files.
    pub fn label(dtype: Dtype) []const u8 {
        return switch (dtype) {
            .f32 => "F32",
            .f64 => "F64",
            .i64 => "I64",
            .i32 => "I32",
            .bool => "BOOL",
            .f16 => "F16",
            .bf16 => "BF16",
            .i16 => "I16",
            .i8 => "I8",
            .u8 => "U8",
            .u16 => "U16",
            .u32 => "U32",
            .u64 => "U64",
        };
    }

    pub fn fromLabel(text: []const u8) ?Dtype {
        for (std.enums.values(Dtype)) |dtype| {
            if (std.mem.eql(u8, dtype.label(), text)) return dtype;
        }
        return null;
    }

    /// From the names that a plan's signature uses.
    pub fn fromSignature(text: []const u8) ?Dtype {
        const Name = enum { float32, float64, int64, int32, bool };
        return switch (std.meta.stringToEnum(Name, text) orelse return null) {
            .float32 => .f32,
            .float64 => .f64,
            .int64 => .i64,
            .int32 => .i32,
            .bool => .bool,
        };
    }

    /// ONNXTensorElementDataType.
    pub fn engineCode(dtype: Dtype) c_int {
        return switch (dtype) {
            .f32 => 1,
            .u8 => 2,
            .i8 => 3,
            .u16 => 4,
            .i16 => 5,
            .i32 => 6,
            .i64 => 7,
            .bool => 9,
            .f16 => 10,
            .f64 => 11,
            .u32 => 12,
            .u64 => 13,
            .bf16 => 16,
        };
    }

    pub fn fromEngineCode(number: c_int) ?Dtype {
        for (std.enums.values(Dtype)) |dtype| {
            if (dtype.engineCode() == number) return dtype;
        }
        return null;
    }
};

pub const rank_max = 8;

/// Sizes of a tensor.
pub const Shape = struct {
    rank: usize = 0,
    sizes: [rank_max]u64 = @splat(0),

    pub fn of(sizes: []const u64) Shape {
        std.debug.assert(sizes.len <= rank_max);
        var shape: Shape = .{ .rank = sizes.len };
        @memcpy(shape.sizes[0..sizes.len], sizes);
        return shape;
    }

    pub fn slice(shape: *const Shape) []const u64 {
        return shape.sizes[0..shape.rank];
    }

    pub fn equals(shape: *const Shape, other: *const Shape) bool {
        return std.mem.eql(u64, shape.slice(), other.slice());
    }

    /// How many elements; null if no number holds it.
    pub fn elements(shape: *const Shape) ?u64 {
        return product(shape.slice());
    }

    /// How many bytes a tensor of this shape takes; null if it cannot be addressed.
    pub fn bytes(shape: *const Shape, dtype: Dtype) ?usize {
        const total = std.math.mul(u64, shape.elements() orelse return null, dtype.bytes()) catch return null;
        return if (total > std.math.maxInt(isize)) null else @intCast(total);
    }
};

/// The product; null if no number holds it, even where a zero follows.
pub fn product(sizes: []const u64) ?u64 {
    var total: u64 = 1;
    for (sizes) |size| total = std.math.mul(u64, total, size) catch return null;
    return total;
}
