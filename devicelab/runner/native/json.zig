//! Typed reading of JSON on top of std's scanner: every value must be what its reader asks for, nothing is skipped,
//! so that depth and size are bounded by the reader's own grammar.

const std = @import("std");
const failures = @import("failure.zig");

const Allocator = std.mem.Allocator;
const Failure = failures.Failure;
const TokenType = std.json.TokenType;

/// Which of an object's fields have been read.
pub fn Fields(comptime Field: type) type {
    return struct {
        seen: std.EnumSet(Field) = .empty,
        given: std.EnumSet(Field) = .empty, // without those that are null
        nullable: std.EnumSet(Field) = .empty,
    };
}

pub const Reader = struct {
    scanner: std.json.Scanner,
    arena: Allocator, // for strings with escapes; the others are slices of the text
    failure: Failure, // what a fault in this document is
    name: []const u8, // the document's, for messages

    pub fn init(arena: Allocator, text: []const u8, failure: Failure, name: []const u8) Reader {
        return .{
            .scanner = .initCompleteInput(arena, text),
            .arena = arena,
            .failure = failure,
            .name = name,
        };
    }

    /// Notes what is wrong, and where.
    pub fn wrong(reader: *const Reader, comptime format: []const u8, arguments: anytype) Failure {
        const place = .{ reader.name, reader.scanner.cursor };
        return failures.fail(reader.failure, "{}, byte {}: " ++ format, place ++ arguments);
    }

    pub fn beginObject(reader: *Reader, what: []const u8) Failure!void {
        try reader.expect(.object_begin, what, "an object");
    }

    pub fn beginArray(reader: *Reader, what: []const u8) Failure!void {
        try reader.expect(.array_begin, what, "a list");
    }

    /// The next key of the object; null at its end.
    pub fn key(reader: *Reader, bytes_max: usize) Failure!?[]const u8 {
        if (try reader.peek() == .object_end) {
            _ = try reader.next();
            return null;
        }
        return try reader.string("a name", bytes_max);
    }

    /// The next field of the object, one of an enumeration's, each at most once; null at its end. Fields that may
    /// be null and are it are passed over: they are absent.
    pub fn field(reader: *Reader, comptime Field: type, fields: *Fields(Field)) Failure!?Field {
        while (true) {
            const name = try reader.key(64) orelse return null;
            const found = std.meta.stringToEnum(Field, name) orelse
                return reader.wrong("unknown field \"{}\"", .{name});
            if (fields.seen.contains(found)) return reader.wrong("the field \"{}\" occurs twice", .{name});
            fields.seen.insert(found);
            if (fields.nullable.contains(found) and try reader.peek() == .null) {
                _ = try reader.next();
                continue;
            }
            fields.given.insert(found);
            return found;
        }
    }

    /// Whether the array has another item; takes its end if not.
    pub fn item(reader: *Reader) Failure!bool {
        if (try reader.peek() != .array_end) return true;
        _ = try reader.next();
        return false;
    }

    pub fn isString(reader: *Reader) Failure!bool {
        return try reader.peek() == .string;
    }

    pub fn string(reader: *Reader, what: []const u8, bytes_max: usize) Failure![]const u8 {
        try reader.require(.string, what, "a string");
        const scanner = &reader.scanner;
        const token = scanner.nextAllocMax(reader.arena, .alloc_if_needed, bytes_max) catch |failure| {
            if (failure != error.ValueTooLong) return reader.broken(failure);
            return reader.wrong("{} is longer than {} bytes", .{ what, bytes_max });
        };
        const text = switch (token) {
            .string => |slice| slice,
            .allocated_string => |slice| slice,
            else => unreachable,
        };
        if (text.len > bytes_max) return reader.wrong("{} is longer than {} bytes", .{ what, bytes_max });
        return text;
    }

    pub fn integer(reader: *Reader, comptime T: type, what: []const u8) Failure!T {
        const text = try reader.numeral(what);
        return std.fmt.parseInt(T, text, 10) catch
            return reader.wrong("{} is {}, no whole number in its range", .{ what, clipped(text) });
    }

    pub fn number(reader: *Reader, what: []const u8) Failure!f64 {
        const text = try reader.numeral(what);
        const value = std.fmt.parseFloat(f64, text) catch
            return reader.wrong("{} is no number", .{what});
        if (!std.math.isFinite(value)) return reader.wrong("{} is too large a number", .{what});
        return value;
    }

    pub fn boolean(reader: *Reader, what: []const u8) Failure!bool {
        switch (try reader.next()) {
            .true => return true,
            .false => return false,
            else => return reader.wrong("{} is neither true nor false", .{what}),
        }
    }

    /// Nothing but white space may follow.
    pub fn end(reader: *Reader) Failure!void {
        if (try reader.next() != .end_of_document) return reader.wrong("more follows", .{});
    }

    fn numeral(reader: *Reader, what: []const u8) Failure![]const u8 {
        try reader.require(.number, what, "a number");
        return switch (try reader.next()) {
            .number => |slice| slice,
            else => unreachable,
        };
    }

    fn expect(reader: *Reader, token: TokenType, what: []const u8, kind: []const u8) Failure!void {
        try reader.require(token, what, kind);
        _ = try reader.next();
    }

    fn require(reader: *Reader, token: TokenType, what: []const u8, kind: []const u8) Failure!void {
        if (try reader.peek() != token) return reader.wrong("{} is not {}", .{ what, kind });
    }

    fn peek(reader: *Reader) Failure!TokenType {
        return reader.scanner.peekNextTokenType() catch |failure| return reader.broken(failure);
    }

    fn next(reader: *Reader) Failure!std.json.Token {
        return reader.scanner.next() catch |failure| return reader.broken(failure);
    }

    fn broken(reader: *Reader, failure: anyerror) Failure {
        return switch (failure) {
            error.OutOfMemory => error.OutOfMemory,
            error.UnexpectedEndOfInput, error.BufferUnderrun => reader.wrong("it ends in the middle", .{}),
            else => reader.wrong("this is not JSON", .{}),
        };
    }
};

fn clipped(text: []const u8) []const u8 {
    return text[0..@min(text.len, 40)];
}
