"""The short loops between a runtime, which computes, and a policy, which decides."""
