//! A check that no action can be used without permission.
