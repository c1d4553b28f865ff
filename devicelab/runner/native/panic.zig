//! What an assertion of ours that does not hold, or a safety check of the compiler's, leads to: an error line and an
//! exit code. Without formatting, which would be a fifth of the program.

const failures = @import("failure.zig");
const messages = @import("messages.zig");
const sys = @import("sys.zig");

pub fn call(message: []const u8, address: ?usize) noreturn {
    @branchHint(.cold);
    // Relative to a known place, so that it can be looked up wherever the program was loaded.
    const place = (address orelse 0) -% @intFromPtr(&call);
    const failure = failures.fail(error.Engine, "a defect of the runner: {} at {}", .{ message, place });
    messages.failed(failure);
    sys.exit(failures.exitCode(failure));
}

pub fn sentinelMismatch(expected: anytype, _: @TypeOf(expected)) noreturn {
    call("sentinel mismatch", @returnAddress());
}

pub fn unwrapError(_: anyerror) noreturn {
    call("attempt to unwrap error", @returnAddress());
}

pub fn outOfBounds(_: usize, _: usize) noreturn {
    call("index out of bounds", @returnAddress());
}

pub fn startGreaterThanEnd(_: usize, _: usize) noreturn {
    call("start index is larger than end index", @returnAddress());
}

pub fn inactiveUnionField(active: anytype, _: @TypeOf(active)) noreturn {
    call("access of inactive union field", @returnAddress());
}

pub fn sliceCastLenRemainder(_: usize) noreturn {
    call("slice length does not divide exactly into destination elements", @returnAddress());
}

pub fn reachedUnreachable() noreturn {
    call("reached unreachable code", @returnAddress());
}

pub fn unwrapNull() noreturn {
    call("attempt to use null value", @returnAddress());
}

pub fn castToNull() noreturn {
    call("cast causes pointer to be null", @returnAddress());
}

pub fn incorrectAlignment() noreturn {
    call("incorrect alignment", @returnAddress());
}

pub fn invalidErrorCode() noreturn {
    call("invalid error code", @returnAddress());
}

pub fn unexpectedErrorCode(_: anyerror) noreturn {
    call("unexpected error code", @returnAddress());
}

pub fn integerOutOfBounds() noreturn {
    call("integer does not fit in destination type", @returnAddress());
}

pub fn integerOverflow() noreturn {
    call("integer overflow", @returnAddress());
}

pub fn shlOverflow() noreturn {
    call("left shift overflowed bits", @returnAddress());
}

pub fn shrOverflow() noreturn {
    call("right shift overflowed bits", @returnAddress());
}

pub fn divideByZero() noreturn {
    call("division by zero", @returnAddress());
}

pub fn exactDivisionRemainder() noreturn {
    call("exact division produced remainder", @returnAddress());
}

pub fn integerPartOutOfBounds() noreturn {
    call("integer part of floating point value out of bounds", @returnAddress());
}

pub fn corruptSwitch() noreturn {
    call("switch on corrupt value", @returnAddress());
}

pub fn shiftRhsTooBig() noreturn {
    call("shift amount is greater than the type size", @returnAddress());
}

pub fn invalidEnumValue() noreturn {
    call("invalid enum value", @returnAddress());
}

pub fn forLenMismatch() noreturn {
    call("for loop over objects with non-equal lengths", @returnAddress());
}

pub fn copyLenMismatch() noreturn {
    call("source and destination have non-equal lengths", @returnAddress());
}

pub fn memcpyAlias() noreturn {
    call("@memcpy arguments alias", @returnAddress());
}

pub fn noreturnReturned() noreturn {
    call("'noreturn' function returned", @returnAddress());
}

pub fn loadUninstantiableType() noreturn {
    call("attempt to load uninstantiable type", @returnAddress());
}
