//! Stands in for libonnxruntime.so when the runner is linked; never shipped.

export fn OrtGetApiBase() ?*const anyopaque {
    return null;
}
