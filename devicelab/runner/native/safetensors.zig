//! safetensors files (https://github.com/huggingface/safetensors#format): eight bytes of header length, a JSON header,
//! and the tensors' bytes without gaps or overlaps up to the very end of the file.

const std = @import("std");
const dtypes = @import("dtype.zig");
const failures = @import("failure.zig");
const Text = @import("text.zig").Text;
const formatted = @import("text.zig").formatted;
const shapePart = @import("text.zig").shapePart;
const files = @import("files.zig");
const json = @import("json.zig");

const Dtype = dtypes.Dtype;
const Failure = failures.Failure;
const Shape = dtypes.Shape;
const fail = failures.fail;

pub const header_bytes_max = 100_000_000; // the format's own limit
pub const tensors_max = 65_536;
pub const name_bytes_max = 1024;
const metadata_max = 4096;
const metadata_bytes_max = 1 << 20;

pub const Tensor = struct {
    name: []const u8,
    dtype: Dtype,
    shape: Shape,
    begin: u64,
    end: u64,
};

/// A file's tensors, by name.
pub const Tensors = struct {
    path: []const u8,
    sorted: []const Tensor = &.{},
    data: []const u8 = &.{},

    pub fn find(tensors: *const Tensors, name: []const u8) ?*const Tensor {
        const order = struct {
            fn order(wanted: []const u8, candidate: Tensor) std.math.Order {
                return std.mem.order(u8, wanted, candidate.name);
            }
        }.order;
        const index = std.sort.binarySearch(Tensor, tensors.sorted, name, order) orelse return null;
        return &tensors.sorted[index];
    }

    pub fn bytes(tensors: *const Tensors, tensor: *const Tensor) []const u8 {
        return tensors.data[@intCast(tensor.begin)..@intCast(tensor.end)];
    }

    /// The bytes of the tensor of that name, which must have this type and shape; null if there is none.
    pub fn expect(tensors: *const Tensors, name: []const u8, dtype: Dtype, shape: *const Shape) Failure!?[]const u8 {
        const tensor = tensors.find(name) orelse return null;
        if (tensor.dtype == dtype and tensor.shape.equals(shape)) return tensors.bytes(tensor);
        return fail(error.Input, "{}: \"{}\" is {}{}, the plan needs {}{}", .{
            tensors.path, name, tensor.dtype.label(), shapePart(&tensor.shape), dtype.label(), shapePart(shape),
        });
    }
};

/// Checks a whole file. The result points into it and into the arena.
pub fn parse(arena: std.mem.Allocator, file: []const u8, path: []const u8) Failure!Tensors {
    if (file.len < 8) return fail(error.Input, "{}: {} bytes are too few for a safetensors file", .{ path, file.len });
    const length = std.mem.readInt(u64, file[0..8], .little);
    if (length > header_bytes_max) return fail(error.Input, "{}: a header of {} bytes is too long", .{ path, length });
    if (length > file.len - 8) return fail(error.Input, "{}: it ends within its header", .{path});
    const header = file[8..][0..@intCast(length)];
    const data = file[8 + header.len ..];
    if (header.len == 0 or header[0] != '{') return fail(error.Input, "{}: its header is no JSON object", .{path});
    const tensors = try parseHeader(arena, header, path);
    try checkPlaces(tensors, data.len, path);
    std.sort.heap(Tensor, tensors, {}, nameBefore);
    for (tensors[@min(1, tensors.len)..], 0..) |tensor, i| {
        if (std.mem.eql(u8, tensor.name, tensors[i].name))
            return fail(error.Input, "{}: \"{}\" occurs twice", .{ path, tensor.name });
    }
    return .{ .path = path, .sorted = tensors, .data = data };
}

fn parseHeader(arena: std.mem.Allocator, header: []const u8, path: []const u8) Failure![]Tensor {
    var reader: json.Reader = .init(arena, header, error.Input, path);
    var tensors: std.ArrayList(Tensor) = .empty;
    var with_metadata = false;
    try reader.beginObject("the header");
    while (try reader.key(name_bytes_max)) |name| {
        if (std.mem.eql(u8, name, "__metadata__")) {
            if (with_metadata) return reader.wrong("__metadata__ occurs twice", .{});
            with_metadata = true;
            try skipMetadata(&reader);
            continue;
        }
        if (tensors.items.len == tensors_max) return reader.wrong("more than {} tensors", .{tensors_max});
        try tensors.append(arena, try parseTensor(&reader, name));
    }
    try reader.end();
    return tensors.items;
}

fn skipMetadata(reader: *json.Reader) Failure!void {
    try reader.beginObject("__metadata__");
    var count: usize = 0;
    while (try reader.key(name_bytes_max)) |_| {
        count += 1;
        if (count > metadata_max) return reader.wrong("more than {} metadata entries", .{metadata_max});
        _ = try reader.string("a metadata entry", metadata_bytes_max);
    }
}

const Field = enum { dtype, shape, data_offsets };

fn parseTensor(reader: *json.Reader, name: []const u8) Failure!Tensor {
    var tensor: Tensor = .{ .name = name, .dtype = .f32, .shape = .{}, .begin = 0, .end = 0 };
    try reader.beginObject("a tensor");
    var fields: json.Fields(Field) = .{};
    while (try reader.field(Field, &fields)) |field| switch (field) {
        .dtype => {
            const label = try reader.string("dtype", 16);
            tensor.dtype = Dtype.fromLabel(label) orelse
                return reader.wrong("\"{}\" has the unknown type {}", .{ name, label });
        },
        .shape => {
            try reader.beginArray("shape");
            while (try reader.item()) {
                if (tensor.shape.rank == dtypes.rank_max)
                    return reader.wrong("\"{}\" has more than {} dimensions", .{ name, dtypes.rank_max });
                tensor.shape.sizes[tensor.shape.rank] = try reader.integer(u63, "a size");
                tensor.shape.rank += 1;
            }
        },
        .data_offsets => {
            try reader.beginArray("data_offsets");
            tensor.begin = try reader.integer(u63, "an offset");
            tensor.end = try reader.integer(u63, "an offset");
            if (try reader.item()) return reader.wrong("more than two offsets", .{});
        },
    };
    if (fields.given.count() != 3) return reader.wrong("\"{}\" lacks dtype, shape or data_offsets", .{name});
    const bytes = tensor.shape.bytes(tensor.dtype) orelse
        return reader.wrong("\"{}\" is too large", .{name});
    if (tensor.end < tensor.begin or tensor.end - tensor.begin != bytes)
        return reader.wrong(
            "\"{}\" needs {} bytes, its offsets are {} and {}",
            .{ name, bytes, tensor.begin, tensor.end },
        );
    return tensor;
}

fn checkPlaces(tensors: []Tensor, data_bytes: u64, path: []const u8) Failure!void {
    std.sort.heap(Tensor, tensors, {}, placeBefore);
    var place: u64 = 0;
    for (tensors) |tensor| {
        if (tensor.begin != place)
            return fail(error.Input, "{}: a gap or an overlap before \"{}\"", .{ path, tensor.name });
        place = tensor.end;
    }
    if (place != data_bytes)
        return fail(error.Input, "{}: its tensors take {} bytes, it has {}", .{ path, place, data_bytes });
}

fn placeBefore(_: void, a: Tensor, b: Tensor) bool {
    return if (a.begin != b.begin) a.begin < b.begin else a.end < b.end;
}

fn nameBefore(_: void, a: Tensor, b: Tensor) bool {
    return std.mem.order(u8, a.name, b.name) == .lt;
}

/// What a safetensors header says of a tensor.
pub const Entry = struct { prefix: ?usize = null, name: []const u8, dtype: Dtype, shape: Shape };

/// Writes the header of a safetensors file. The tensors' bytes must follow, in this order.
pub fn writeHeader(arena: std.mem.Allocator, writer: *files.Writer, entries: []const Entry) Failure!void {
    if (entries.len > tensors_max)
        return fail(error.Job, "{} would hold {} tensors, more than {}", .{ writer.path, entries.len, tensors_max });
    var count: Text = .{};
    formatHeader(&count, entries);
    const padded = std.mem.alignForward(usize, count.length, 8);
    if (padded > header_bytes_max)
        return fail(
            error.Job,
            "{} would have a header of {} bytes, more than {}",
            .{ writer.path, padded, header_bytes_max },
        );
    const buffer = try arena.alloc(u8, 8 + padded);
    std.mem.writeInt(u64, buffer[0..8], padded, .little);
    @memset(buffer[8..], ' ');
    var text: Text = .{ .buffer = buffer[8..] };
    formatHeader(&text, entries);
    std.debug.assert(text.length == count.length);
    try writer.write(buffer);
}

fn formatHeader(text: *Text, entries: []const Entry) void {
    var place: u64 = 0;
    text.raw("{");
    for (entries, 0..) |*entry, i| {
        if (i > 0) text.raw(",");
        var buffer: [name_bytes_max + 32]u8 = undefined;
        text.string(if (entry.prefix) |index|
            formatted(&buffer, "{}/{}", .{ index, entry.name })
        else
            entry.name);
        text.print(":{\"dtype\":\"{}\",\"shape\":[", .{entry.dtype.label()});
        for (entry.shape.slice(), 0..) |size, axis| {
            if (axis > 0) text.raw(",");
            text.print("{}", .{size});
        }
        const end = place + entry.shape.bytes(entry.dtype).?;
        text.print("],\"data_offsets\":[{},{}]}", .{ place, end });
        place = end;
    }
    text.raw("}");
}
