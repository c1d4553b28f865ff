//! Writing JSON and messages into memory. A counting pass first tells how much memory a text takes.
//!
//! Its own small `print`, because std's would be half of the program.

const std = @import("std");
const Shape = @import("dtype.zig").Shape;

/// What fills a place in a format.
const Part = union(enum) {
    text: []const u8,
    unsigned: u64,
    signed: i64,
    float: f64,
    shape: *const Shape,

    fn of(value: anytype) Part {
        const T = @TypeOf(value);
        if (T == Shape or T == *const Shape or T == *Shape) @compileError("pass a shape as shape.part()");
        return switch (@typeInfo(T)) {
            .int => |int| if (int.signedness == .signed) .{ .signed = value } else .{ .unsigned = value },
            .comptime_int => .{ .unsigned = value },
            .float => .{ .float = value },
            .@"enum" => .{ .text = @tagName(value) },
            .bool => .{ .text = if (value) "true" else "false" },
            .@"union" => value,
            else => .{ .text = value },
        };
    }
};

/// A shape as an argument of `print`.
pub fn shapePart(shape: *const Shape) Part {
    return .{ .shape = shape };
}

pub const Text = struct {
    buffer: []u8 = &.{}, // empty: only count
    length: usize = 0,

    pub fn written(text: *const Text) []const u8 {
        return text.buffer[0..@min(text.length, text.buffer.len)];
    }

    /// Whether all of it found room.
    pub fn fits(text: *const Text) bool {
        return text.length <= text.buffer.len;
    }

    /// What does not fit is cut off, but counted.
    pub fn raw(text: *Text, bytes: []const u8) void {
        if (text.length < text.buffer.len) {
            const count = @min(bytes.len, text.buffer.len - text.length);
            @memcpy(text.buffer[text.length..][0..count], bytes[0..count]);
        }
        text.length += bytes.len;
    }

    /// Each `{}` of the format takes an argument, shown by its type.
    pub fn print(text: *Text, comptime format: []const u8, arguments: anytype) void {
        const pieces = comptime split(format);
        var parts: [arguments.len]Part = undefined;
        if (pieces.len != parts.len + 1) @compileError("format and arguments differ: " ++ format);
        inline for (arguments, &parts) |argument, *part| part.* = .of(argument);
        text.fill(pieces, &parts);
    }

    fn fill(text: *Text, pieces: []const []const u8, parts: []const Part) void {
        for (pieces, 0..) |piece, i| {
            if (i > 0) text.show(&parts[i - 1]);
            text.raw(piece);
        }
    }

    fn show(text: *Text, part: *const Part) void {
        switch (part.*) {
            .text => |bytes| text.raw(bytes),
            .unsigned => |number_| text.integer(number_),
            .signed => |number_| {
                if (number_ < 0) text.raw("-");
                text.integer(@abs(number_));
            },
            .float => |number_| text.number(number_),
            .shape => |shape| {
                text.raw("[");
                for (shape.slice(), 0..) |size, i| {
                    if (i > 0) text.raw(",");
                    text.integer(size);
                }
                text.raw("]");
            },
        }
    }

    fn integer(text: *Text, value: u64) void {
        var digits: [20]u8 = undefined;
        var start = digits.len;
        var rest = value;
        while (true) {
            start -= 1;
            digits[start] = '0' + @as(u8, @intCast(rest % 10));
            rest /= 10;
            if (rest == 0) break;
        }
        text.raw(digits[start..]);
    }

    /// A JSON string. What is not UTF-8 becomes question marks.
    pub fn string(text: *Text, bytes: []const u8) void {
        text.raw("\"");
        var i: usize = 0;
        while (i < bytes.len) {
            const sequence = sequenceAt(bytes[i..]);
            if (sequence.len == 1) text.character(sequence[0]) else text.raw(sequence);
            i += sequence.len;
        }
        text.raw("\"");
    }

    fn character(text: *Text, byte: u8) void {
        switch (byte) {
            '"' => text.raw("\\\""),
            '\\' => text.raw("\\\\"),
            '\n' => text.raw("\\n"),
            0...9, 11...0x1f, 0x7f => text.raw(&.{ '\\', 'u', '0', '0', '0' + (byte >> 4), hex(byte & 15) }),
            0x80...0xff => text.raw("?"),
            else => text.raw(&.{byte}),
        }
    }

    /// A JSON number that reads back as the same double, recognizably no integer; null where it is not finite.
    pub fn number(text: *Text, value: f64) void {
        if (!std.math.isFinite(value)) return text.raw("null");
        const magnitude = @abs(value);
        const plain = magnitude == 0 or (magnitude >= 1e-5 and magnitude < 1e15);
        var buffer: [std.fmt.float.bufferSize(.decimal, f64)]u8 = undefined;
        const mode: std.fmt.float.Mode = if (plain) .decimal else .scientific;
        const digits = std.fmt.float.render(&buffer, value, .{ .mode = mode }) catch unreachable;
        text.raw(digits);
        if (plain and std.mem.findScalar(u8, digits, '.') == null) text.raw(".0");
    }
};

/// Formats into a buffer that is large enough.
pub fn formatted(buffer: []u8, comptime format: []const u8, arguments: anytype) []const u8 {
    var text: Text = .{ .buffer = buffer };
    text.print(format, arguments);
    std.debug.assert(text.fits());
    return text.written();
}

/// As `formatted`, for the kernel and the engine.
pub fn formattedZ(buffer: []u8, comptime format: []const u8, arguments: anytype) [:0]const u8 {
    const bytes = formatted(buffer, format ++ "\x00", arguments);
    return bytes[0 .. bytes.len - 1 :0];
}

fn hex(nibble: u8) u8 {
    return "0123456789abcdef"[nibble];
}

/// The format's pieces between its places.
fn split(comptime format: []const u8) []const []const u8 {
    @setEvalBranchQuota(10_000);
    var pieces: []const []const u8 = &.{};
    var start: usize = 0;
    var i: usize = 0;
    while (i + 1 < format.len) : (i += 1) {
        if (format[i] != '{' or format[i + 1] != '}') continue;
        pieces = pieces ++ .{format[start..i]};
        start = i + 2;
        i += 1;
    }
    return pieces ++ .{format[start..]};
}

fn sequenceAt(bytes: []const u8) []const u8 {
    const length = std.unicode.utf8ByteSequenceLength(bytes[0]) catch return bytes[0..1];
    if (length > bytes.len or !std.unicode.utf8ValidateSlice(bytes[0..length])) return bytes[0..1];
    return bytes[0..length];
}
