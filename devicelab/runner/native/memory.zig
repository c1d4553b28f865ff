//! Memory straight from the kernel. Everything is taken before the step loop, and nothing inside it.

const std = @import("std");
const sys = @import("sys.zig");

const Allocator = std.mem.Allocator;
const assert = std.debug.assert;

/// Alignment of tensors: a cache line, and the widest vector register.
pub const tensor_alignment: std.mem.Alignment = .@"64";

const chunk_bytes = 1 << 20;
const large_bytes = 1 << 16; // from here on an allocation gets a mapping of its own

/// Hands out memory that is given back all at once.
pub const Arena = struct {
    chunk: []align(4096) u8 = &.{},
    used: usize = 0,
    mappings: ?*Mapping = null,

    /// Stands at the start of every mapping of an arena.
    const Mapping = struct { next: ?*Mapping, bytes: usize };
    const header_bytes = std.mem.alignForward(usize, @sizeOf(Mapping), 64);

    pub fn allocator(arena: *Arena) Allocator {
        return .{ .ptr = arena, .vtable = &.{
            .alloc = allocate,
            .resize = Allocator.noResize,
            .remap = Allocator.noRemap,
            .free = Allocator.noFree,
        } };
    }

    /// Memory for a tensor, zeroed; never empty, so that every tensor has an address.
    pub fn tensor(arena: *Arena, bytes: usize) error{OutOfMemory}![]align(64) u8 {
        const memory = arena.take(@max(bytes, 1), 64) orelse return error.OutOfMemory;
        const aligned: [*]align(64) u8 = @alignCast(memory);
        return aligned[0..bytes];
    }

    /// Gives everything back to the kernel.
    pub fn reset(arena: *Arena) void {
        var mapping = arena.mappings;
        while (mapping) |m| {
            mapping = m.next;
            const start: [*]align(4096) u8 = @ptrCast(@alignCast(m));
            sys.unmap(start[0..m.bytes]);
        }
        arena.* = .{};
    }

    fn take(arena: *Arena, bytes: usize, alignment: usize) ?[*]u8 {
        assert(alignment <= 64);
        if (bytes >= large_bytes) {
            const memory = arena.mapped(bytes) orelse return null;
            return memory.ptr + header_bytes;
        }
        var start = std.mem.alignForward(usize, arena.used, alignment);
        if (arena.chunk.len == 0 or bytes > arena.chunk.len - start) {
            arena.chunk = arena.mapped(chunk_bytes - header_bytes) orelse return null;
            start = header_bytes;
        }
        arena.used = start + bytes;
        assert(arena.used <= arena.chunk.len);
        return arena.chunk.ptr + start;
    }

    fn mapped(arena: *Arena, bytes: usize) ?[]align(4096) u8 {
        const total = std.math.add(usize, bytes, header_bytes) catch return null;
        if (total > std.math.maxInt(isize)) return null;
        const memory = sys.map(total) orelse return null;
        const mapping: *Mapping = @ptrCast(memory.ptr);
        mapping.* = .{ .next = arena.mappings, .bytes = total };
        arena.mappings = mapping;
        return memory;
    }

    fn allocate(context: *anyopaque, bytes: usize, alignment: std.mem.Alignment, _: usize) ?[*]u8 {
        const arena: *Arena = @ptrCast(@alignCast(context));
        return arena.take(bytes, alignment.toByteUnits());
    }
};
