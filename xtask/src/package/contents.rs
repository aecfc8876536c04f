// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is in which package. To add a file is to add a line.

/// A package.
pub(super) struct Package {
    pub(super) name: &'static str,
    pub(super) architecture: &'static str,
    pub(super) section: &'static str,
    /// Beside what its libraries need; `{version}` is its own.
    pub(super) depends: &'static [&'static str],
    pub(super) recommends: &'static [&'static str],
    /// First line, then paragraphs.
    pub(super) description: &'static [&'static str],
    /// It has maintainer scripts `dist/debian/<name>.<script>`.
    pub(super) scripts: &'static [&'static str],
    /// Further files of its control archive: name, content; `{version}` is its own.
    pub(super) control: &'static [(&'static str, &'static str)],
    pub(super) contents: &'static [Content],
}

/// A file in a package, or several. `to` has no slash in front.
pub(super) enum Content {
    /// The program.
    Program { to: &'static str },
    /// The library that `gpreempt run` preloads.
    Agent { to: &'static str },
    /// A shared library of what a crate of the workspace leaves as `staticlib`; `exports` is the pattern of what can be seen in it.
    Library {
        archive: &'static str,
        soname: &'static str,
        exports: &'static str,
        to: &'static str,
    },
    /// A file of the project.
    File {
        from: &'static str,
        to: &'static str,
    },
    /// One that the administrator may change.
    Conffile {
        from: &'static str,
        to: &'static str,
    },
    /// The files of a directory of the project, without what is below it.
    Dir {
        from: &'static str,
        to: &'static str,
    },
    /// An empty directory.
    Empty { to: &'static str },
    /// A symbolic link.
    Link {
        to: &'static str,
        target: &'static str,
    },
    /// Man pages of the program.
    Man,
    /// Its completions.
    Completions,
    /// The crates that are in it, with their licences.
    ThirdParty { to: &'static str },
    /// For pkg-config.
    PkgConfig { to: &'static str },
    /// What Python's tools know a package by, in this directory.
    PythonMetadata { to: &'static str },
}

use Content::{
    Agent, Completions, Conffile, Dir, Empty, File, Library, Link, Man, PkgConfig, Program,
    PythonMetadata, ThirdParty,
};

pub(super) const PACKAGES: &[Package] = &[
    Package {
        name: "gpreempt",
        architecture: "amd64",
        section: "admin",
        depends: &["init-system-helpers (>= 1.54)"],
        recommends: &["logrotate"],
        description: &[
            "see and preempt the compute queues of AMD GPUs",
            "eBPF programs watch the amdkfd driver: who has which queues, when they are mapped, what that costs. A daemon holds the \
             queues of offline jobs while online ones need the GPU.",
            "As installed it holds nobody: what is online and what is offline is for the administrator to say.",
        ],
        scripts: &["postinst", "prerm", "postrm"],
        control: &[],
        contents: &[
            Program { to: "usr/bin/gpreempt" },
            Agent { to: "usr/lib/gpreempt/libgpreempt_agent.so" },
            File { from: "dist/gpreempt.service", to: "usr/lib/systemd/system/gpreempt.service" },
            Conffile { from: "dist/default.toml", to: "etc/gpreempt/gpreempt.toml" },
            Empty { to: "etc/gpreempt/conf.d" },
            Conffile { from: "dist/gpreempt.logrotate", to: "etc/logrotate.d/gpreempt" },
            Man,
            Completions,
            File { from: "README.md", to: "usr/share/doc/gpreempt/README.md" },
            Dir { from: "docs", to: "usr/share/doc/gpreempt" },
            Dir { from: "docs/schema", to: "usr/share/doc/gpreempt/schema" },
            Dir { from: "docs/pictures", to: "usr/share/doc/gpreempt/pictures" },
            ThirdParty { to: "usr/share/doc/gpreempt/third-party.txt" },
            File { from: "dist/gpreempt.toml", to: "usr/share/doc/gpreempt/examples/gpreempt.toml" },
            File {
                from: "dist/grafana/gpreempt.json",
                to: "usr/share/doc/gpreempt/examples/grafana-dashboard.json",
            },
        ],
    },
    Package {
        name: "libgpreempt0",
        architecture: "amd64",
        section: "libs",
        depends: &[],
        recommends: &["gpreempt"],
        description: &[
            "stop and restart queues on AMD GPUs, and give hints of online work",
            "What programs in C need at run time to talk to the gpreempt daemon and to a patched amdkfd driver.",
        ],
        scripts: &[],
        control: &[
            ("shlibs", "libgpreempt 0 libgpreempt0 (>= {version})\n"),
            ("triggers", "activate-noawait ldconfig\n"),
        ],
        contents: &[
            Library {
                archive: "libgpreempt_c.a",
                soname: "libgpreempt.so.0",
                exports: "gpreempt_*",
                to: "usr/lib/x86_64-linux-gnu/libgpreempt.so.0",
            },
            ThirdParty { to: "usr/share/doc/libgpreempt0/third-party.txt" },
        ],
    },
    Package {
        name: "libgpreempt-dev",
        architecture: "amd64",
        section: "libdevel",
        depends: &["libgpreempt0 (= {version})"],
        recommends: &["pkg-config"],
        description: &[
            "stop and restart queues on AMD GPUs: header and examples",
            "What programs in C are built with that use libgpreempt.",
        ],
        scripts: &[],
        control: &[],
        contents: &[
            File { from: "gpreempt-c/include/gpreempt.h", to: "usr/include/gpreempt.h" },
            PkgConfig { to: "usr/lib/x86_64-linux-gnu/pkgconfig/gpreempt.pc" },
            Link { to: "usr/lib/x86_64-linux-gnu/libgpreempt.so", target: "libgpreempt.so.0" },
            Dir { from: "gpreempt-c/examples", to: "usr/share/doc/libgpreempt-dev/examples" },
            File { from: "docs/library.md", to: "usr/share/doc/libgpreempt-dev/library.md" },
        ],
    },
    Package {
        name: "python3-gpreempt",
        architecture: "all",
        section: "python",
        depends: &["python3 (>= 3.9)"],
        recommends: &["gpreempt"],
        description: &[
            "tell the gpreempt daemon of online work on AMD GPUs",
            "A package for Python that needs nothing but its standard library.",
        ],
        scripts: &["postinst", "prerm"],
        control: &[],
        contents: &[
            Dir { from: "python/src/gpreempt", to: "usr/lib/python3/dist-packages/gpreempt" },
            PythonMetadata { to: "usr/lib/python3/dist-packages" },
            File { from: "python/README.md", to: "usr/share/doc/python3-gpreempt/README.md" },
        ],
    },
];
