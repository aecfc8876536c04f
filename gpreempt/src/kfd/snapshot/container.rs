// SPDX-License-Identifier: MIT OR Apache-2.0
//! The container of a process, by the path of its cgroup: runtimes name a container's cgroup by its id.

/// Id of the innermost container of a cgroup path: what `docker ps`, `crictl ps` or `podman ps` begin with, or the name of an
/// LXC container.
///
/// Docker, containerd, CRI-O and Podman: 64 hexadecimal digits, alone or as `RUNTIME-ID.scope`, `SLICE:RUNTIME:ID`. LXC: below
/// `lxc` or `lxc.payload`, or as `lxc.payload.NAME`.
#[must_use]
pub(super) fn id(cgroup: &str) -> Option<String> {
    let parts: Vec<&str> = cgroup.split('/').collect();
    (0..parts.len()).rev().find_map(|at| {
        let before = at.checked_sub(1).and_then(|at| parts.get(at)).copied();
        of_part(parts.get(at)?, before)
    })
}

fn of_part(part: &str, before: Option<&str>) -> Option<String> {
    let name = part
        .strip_suffix(".scope")
        .or_else(|| part.strip_suffix(".service"))
        .unwrap_or(part);
    let last = name.rsplit(['-', ':']).next().unwrap_or(name);
    if last.len() == 64 && last.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Some(last.to_owned());
    }
    if let Some(name) = part.strip_prefix("lxc.payload.") {
        return Some(name.to_owned());
    }
    let below_lxc = matches!(before, Some("lxc" | "lxc.payload"));
    (below_lxc && !part.is_empty()).then(|| part.to_owned())
}

#[cfg(test)]
mod tests {
    use super::id;

    const ID: &str = "4c01db0b339c4c7e8d6ce59f7b1eaf0ad3f2b6ac5ad34a2e8b0b9d4e6a1f0c77";

    #[test]
    fn runtimes_name_cgroups_by_the_id() {
        for path in [
            "/docker/ID",
            "/system.slice/docker-ID.scope",
            "/system.slice/docker-ID.scope/init",
            "/kubepods/burstable/pod0f1d2c3b/ID",
            "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod0f1d_2c3b.slice/cri-containerd-ID.scope",
            "/kubepods.slice/kubepods-pod0f1d.slice/crio-ID.scope",
            "/kubepods-besteffort-pod0f1d.slice:cri-containerd:ID",
            "/machine.slice/libpod-ID.scope/container",
            "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-ID.scope",
            "/system.slice/nerdctl-ID.scope",
            "/lxc.payload.host/docker/ID",
        ] {
            let path = path.replace("ID", ID);
            assert_eq!(id(&path).as_deref(), Some(ID), "{path}");
        }
    }

    #[test]
    fn lxc_names_them_by_the_name() {
        for path in [
            "/lxc/web",
            "/lxc.payload.web",
            "/lxc.payload/web/init.scope",
            "/lxc/web/user.slice",
        ] {
            assert_eq!(id(path).as_deref(), Some("web"), "{path}");
        }
    }

    #[test]
    fn other_paths_are_no_container() {
        for path in [
            "/",
            "",
            "/user.slice/user-1000.slice/session-2.scope",
            "/system.slice/ssh.service",
            "/lxc",
            "/lxc.monitor.web",
            "/docker/0123",
        ] {
            assert_eq!(id(path), None, "{path}");
        }
    }
}
