"""The wire: one phone over ADB, through the adb server or directly."""
