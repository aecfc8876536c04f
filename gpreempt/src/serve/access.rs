// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may do what: the caller as the kernel knows it, against `[access]`.

use std::ffi::CString;

use nix::unistd::{getgrouplist, Gid, Group, Uid, User};

use crate::event::Pid;
use crate::policy::{Access, Who};

/// Who called, as the kernel said when the connection was made (SO_PEERCRED).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Caller {
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// In the daemon's pid namespace; `None` if it is not in it.
    pub(super) pid: Option<Pid>,
}

/// What a call takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Right {
    Read,
    Hint,
    Register,
    Hold,
    Policy,
}

impl Right {
    /// Its key in `[access]`.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Hint => "hint",
            Self::Register => "register",
            Self::Hold => "hold",
            Self::Policy => "policy",
        }
    }
}

/// Whether this caller has that right.
pub(super) fn allowed(access: &Access, caller: Caller, right: Right) -> bool {
    if caller.uid == 0 {
        return true;
    }
    let who = match right {
        Right::Read => &access.read,
        Right::Hint => &access.hint,
        Right::Register => &access.register,
        Right::Hold => &access.hold,
        Right::Policy => &access.policy,
    };
    who.iter().any(|who| is(who, caller))
}

fn is(who: &Who, caller: Caller) -> bool {
    match who {
        Who::All => true,
        Who::User(name) => {
            let by_name = || User::from_name(name).ok().flatten().map(|user| user.uid);
            let uid = name.parse().ok().map(Uid::from_raw).or_else(by_name);
            uid == Some(Uid::from_raw(caller.uid))
        }
        Who::Group(name) => {
            let by_name = || Group::from_name(name).ok().flatten().map(|group| group.gid);
            let gid = name.parse().ok().map(Gid::from_raw).or_else(by_name);
            gid.is_some_and(|gid| gid.as_raw() == caller.gid || belongs(caller.uid, gid))
        }
    }
}

/// Whether the user database says that a user is in a group.
fn belongs(uid: u32, gid: Gid) -> bool {
    let Some(user) = User::from_uid(Uid::from_raw(uid)).ok().flatten() else {
        return false;
    };
    let Ok(name) = CString::new(user.name) else {
        return false;
    };
    getgrouplist(&name, user.gid).is_ok_and(|groups| groups.contains(&gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn caller(uid: u32, gid: u32) -> Caller {
        Caller {
            uid,
            gid,
            pid: None,
        }
    }

    #[test]
    fn root_may_all_and_others_what_is_written() {
        let access = Access {
            hint: vec![Who::User("1000".to_owned()), Who::Group("2000".to_owned())],
            hold: vec![Who::User("root".to_owned())],
            ..Access::default()
        };
        for right in [
            Right::Read,
            Right::Hint,
            Right::Register,
            Right::Hold,
            Right::Policy,
        ] {
            assert!(allowed(&access, caller(0, 0), right), "{}", right.name());
        }
        assert!(allowed(&access, caller(1234, 1234), Right::Read));
        assert!(allowed(&access, caller(1000, 1000), Right::Hint));
        assert!(allowed(&access, caller(1234, 2000), Right::Hint));
        assert!(!allowed(&access, caller(1234, 1234), Right::Hint));
        assert!(!allowed(&access, caller(1000, 1000), Right::Hold));
        assert!(!allowed(&access, caller(1000, 1000), Right::Policy));
    }

    #[test]
    fn names_are_those_of_the_user_database() {
        let access = Access {
            hold: vec![
                Who::User("nobody".to_owned()),
                Who::Group("daemon".to_owned()),
                Who::User("no such user".to_owned()),
            ],
            ..Access::default()
        };
        assert!(allowed(&access, caller(65534, 65534), Right::Hold));
        assert!(allowed(&access, caller(1, 1), Right::Hold));
        assert!(!allowed(&access, caller(1234, 1234), Right::Hold));
    }
}
