//! The controller: schedule, queue, policy, approvals, promotion; the control API and the dashboard.
