//! The mixture-of-experts network: tokens, wide path, backbone, heads, devices.
