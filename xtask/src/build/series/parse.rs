// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a patch in the form of `git format-patch` says about itself.

use anyhow::{Context, Result};

/// A file that a patch touches.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Touched {
    /// Its path below the root of the kernel's source.
    pub(crate) path: String,
    pub(crate) change: Change,
    pub(crate) added_lines: usize,
    pub(crate) removed_lines: usize,
}

/// What becomes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    Added,
    Modified,
    Removed,
}

/// What stands for the absent side of an added or removed file.
const ABSENT: &str = "/dev/null";

/// The files that a patch touches. Lines are counted by the hunks' headers, so that a removed line that begins with
/// `--` is not taken for a file's header.
pub(crate) fn touched(text: &str) -> Result<Vec<Touched>> {
    let mut files: Vec<Touched> = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        if ["rename from ", "copy from ", "GIT binary patch"]
            .iter()
            .any(|start| line.starts_with(start))
        {
            anyhow::bail!("{line:?}: renames, copies and binary files are not supported, make the patch with --no-renames");
        }
        if let (Some(old), Some(new)) = (
            line.strip_prefix("--- "),
            lines.peek().and_then(|next| next.strip_prefix("+++ ")),
        ) {
            files.push(of_header(old, new)?);
            lines.next();
            continue;
        }
        let Some(counts) = line.strip_prefix("@@ -") else {
            continue;
        };
        let (mut old, mut new) =
            counts_of(counts).with_context(|| format!("the hunk {line:?} is malformed"))?;
        let file = files
            .last_mut()
            .with_context(|| format!("the hunk {line:?} belongs to no file"))?;
        while old > 0 || new > 0 {
            let body = lines
                .next()
                .with_context(|| format!("the patch ends inside of the hunk {line:?}"))?;
            match body.bytes().next() {
                Some(b'+') => {
                    new = new.checked_sub(1).context("a hunk adds too many lines")?;
                    file.added_lines += 1;
                }
                Some(b'-') => {
                    old = old
                        .checked_sub(1)
                        .context("a hunk removes too many lines")?;
                    file.removed_lines += 1;
                }
                // Mailers cut the blank off an empty line of context.
                Some(b' ') | None => {
                    old = old.checked_sub(1).context("a hunk has too many lines")?;
                    new = new.checked_sub(1).context("a hunk has too many lines")?;
                }
                Some(b'\\') => {}
                Some(_) => anyhow::bail!("{body:?} is no line of the hunk {line:?}"),
            }
        }
    }
    anyhow::ensure!(!files.is_empty(), "the patch changes no file");
    Ok(files)
}

fn of_header(old: &str, new: &str) -> Result<Touched> {
    let (old, new) = (without_time(old), without_time(new));
    let (path, change) = match (old, new) {
        (ABSENT, path) => (path, Change::Added),
        (path, ABSENT) => (path, Change::Removed),
        (_, path) => (path, Change::Modified),
    };
    // -p1
    let path = path
        .split_once('/')
        .map(|(_, path)| path)
        .with_context(|| format!("{path:?} has no directory to strip"))?;
    anyhow::ensure!(
        !path.is_empty()
            && !path.starts_with('/')
            && !path.split('/').any(|part| part == ".." || part.is_empty()),
        "{path:?} leads out of the tree"
    );
    Ok(Touched {
        path: path.to_owned(),
        change,
        added_lines: 0,
        removed_lines: 0,
    })
}

/// `a/file<tab>time`
fn without_time(name: &str) -> &str {
    name.split_once('\t').map_or(name, |(name, _)| name).trim()
}

/// `12,3 +12,4 @@ function` gives 3 and 4; a count that is not there is 1.
fn counts_of(rest: &str) -> Option<(usize, usize)> {
    let (old, rest) = rest.split_once(" +")?;
    let (new, _) = rest.split_once(" @@")?;
    let count = |range: &str| match range.split_once(',') {
        Some((_, count)) => count.parse().ok(),
        None => range.parse::<usize>().ok().map(|_| 1),
    };
    Some((count(old)?, count(new)?))
}

/// The mail's subject without `[PATCH n/m]`; it may be folded.
pub(crate) fn subject(text: &str) -> Option<String> {
    let mut lines = text.lines().take_while(|line| !line.is_empty());
    let first = lines.find_map(|line| line.strip_prefix("Subject: "))?;
    let folded = lines
        .take_while(|line| line.starts_with([' ', '\t']))
        .map(str::trim);
    let whole = [first.trim()]
        .into_iter()
        .chain(folded)
        .collect::<Vec<_>>()
        .join(" ");
    let title = match whole
        .strip_prefix('[')
        .and_then(|rest| rest.split_once("] "))
    {
        Some((tag, title)) if tag.starts_with("PATCH") || tag.starts_with("RFC") => {
            title.to_owned()
        }
        _ => whole,
    };
    Some(title)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATCH: &str = "\
From 0123 Mon Sep 17 00:00:00 2001
From: A <a@b>
Date: Sun, 1 Nov 2026 00:00:00 +0000
Subject: [PATCH v2 3/7] drm/amdkfd: hold
 queues

Body.
---
 d/a.c | 4 ++--

diff --git a/d/a.c b/d/a.c
index 1..2 100644
--- a/d/a.c
+++ b/d/a.c
@@ -10,4 +10,4 @@ int f(void)
 one
--- two
-three
++++ two

+four
diff --git a/d/new.h b/d/new.h
new file mode 100644
--- /dev/null
+++ b/d/new.h
@@ -0,0 +1,2 @@
+a
+b
\\ No newline at end of file
diff --git a/d/old.h b/d/old.h
--- a/d/old.h\t2026-01-01
+++ /dev/null
@@ -1 +0,0 @@
-x
-- 
2.39.5
";

    #[test]
    fn files_and_lines_are_counted() {
        let found = touched(PATCH).unwrap();
        let told: Vec<_> = found
            .iter()
            .map(|file| {
                (
                    file.path.as_str(),
                    file.change,
                    file.added_lines,
                    file.removed_lines,
                )
            })
            .collect();
        assert_eq!(
            told,
            [
                ("d/a.c", Change::Modified, 2, 2),
                ("d/new.h", Change::Added, 2, 0),
                ("d/old.h", Change::Removed, 0, 1),
            ]
        );
    }

    #[test]
    fn subjects_are_unfolded_and_lose_their_tag() {
        assert_eq!(subject(PATCH).as_deref(), Some("drm/amdkfd: hold queues"));
        assert_eq!(
            subject("Subject: [amdkfd] x\n").as_deref(),
            Some("[amdkfd] x")
        );
        assert_eq!(subject("no mail\n"), None);
        assert_eq!(subject("From: x\n\nSubject: body\n"), None);
    }

    #[test]
    fn broken_patches_are_refused() {
        for bad in [
            "just words\n",
            "--- a/x\n+++ b/x\n@@ -1,2 +1,2 @@\n one\n",
            "--- a/x\n+++ b/x\n@@ -1,9\n",
            "@@ -1 +1 @@\n-a\n+b\n",
            "--- a/../x\n+++ b/../x\n@@ -1 +1 @@\n-a\n+b\n",
            "--- a//etc/x\n+++ b//etc/x\n@@ -1 +1 @@\n-a\n+b\n",
            "rename from a\nrename to b\n",
            "--- a/x\n+++ b/x\n@@ -1 +1 @@\n*a\n",
        ] {
            assert!(touched(bad).is_err(), "{bad:?}");
        }
    }
}
