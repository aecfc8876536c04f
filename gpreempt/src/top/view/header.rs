// SPDX-License-Identifier: MIT OR Apache-2.0
//! The header: what is being seen, a line for each GPU, and another, red, for one that is oversubscribed.

use ratatui::layout::Rect;
use ratatui::style::Style;
use ratatui::text::{Line, Span};

use super::text::{count, head, plural, rate, spark, width};
use super::{found, Ink};
use crate::model::Rule;
use crate::sink::units::Nanos;
use crate::top::state::{GpuPane, State, Status};

/// Least and most columns of the bar of slots.
const BAR: (usize, usize) = (8, 48);

/// Columns of the sparkline of unmap times, where there is room.
const SPARK: usize = 12;

/// Lines that it takes, of those that it may.
pub(super) fn height(state: &State, most: u16) -> u16 {
    let gpus = shown(state)
        .map(|gpu| 1 + usize::from(gpu.over.is_some()))
        .sum::<usize>();
    let lines = 1
        + usize::from(remark(state).is_some())
        + gpus
        + usize::from(warning(state, usize::from(most)).is_some());
    u16::try_from(lines).unwrap_or(u16::MAX).min(most.max(1))
}

/// The first warning, where there is room for it beside everything else: half of the screen, of so many lines at least.
fn warning(state: &State, most: usize) -> Option<String> {
    const ROOMY: usize = 10;
    let finding = found::first(state).filter(|_| most >= ROOMY)?;
    Some(format!(" WARN {}: {}", finding.subject(), finding.evidence))
}

fn shown(state: &State) -> impl Iterator<Item = &GpuPane> {
    let only = state.gpu_filter;
    state
        .gpus
        .iter()
        .filter(move |gpu| only.is_none_or(|gpu_id| gpu_id == gpu.gpu_id))
}

/// Its lines.
pub(super) fn lines(state: &State, ink: Ink, area: Rect, screen: u16) -> Vec<Line<'static>> {
    let screen = usize::from(screen);
    let columns = usize::from(area.width);
    let room = usize::from(area.height);
    let mut lines = vec![title(state, ink, columns)];
    if let Some((text, style)) = remark(state) {
        let style = if style { ink.attention() } else { ink.faint() };
        lines.push(Line::styled(head(&text, columns), style));
    }
    let mut gpus: Vec<&GpuPane> = shown(state).collect();
    // Where there is no room for all, those in trouble come first.
    let need: usize = gpus
        .iter()
        .map(|gpu| 1 + usize::from(gpu.over.is_some()))
        .sum();
    if lines.len() + need > room {
        gpus.sort_by_key(|gpu| gpu.over.is_none());
    }
    let left = gpus.len();
    for (at, gpu) in gpus.into_iter().enumerate() {
        let takes = 1 + usize::from(gpu.over.is_some());
        let others = left - at - 1;
        // The last line of several tells of the rest.
        if lines.len() + takes + usize::from(others > 0) > room {
            if lines.len() < room {
                let text = format!(
                    " and {} more; g shows one at a time",
                    plural(others + 1, "GPU", "GPUs")
                );
                lines.push(Line::styled(head(&text, columns), ink.faint()));
            }
            break;
        }
        lines.push(gpu_line(gpu, ink, columns));
        lines.extend(over_line(gpu, ink, columns));
    }
    // Where it has no place it was not counted either.
    if let Some(text) = warning(state, screen / 2).filter(|_| lines.len() < room) {
        lines.push(Line::styled(head(&text, columns), ink.attention()));
    }
    lines
}

/// A line below the title, where there is something to say, and whether it is a warning.
fn remark(state: &State) -> Option<(String, bool)> {
    if let Status::None(why) = &state.status {
        return Some((format!(" no events, pictures only: {why}"), true));
    }
    if let Some(late_ns) = state.late_ns {
        let text = format!(" the driver has not answered for {}", Nanos(late_ns));
        return Some((text, true));
    }
    if let Some(notice) = &state.notice {
        return Some((format!(" {notice}"), true));
    }
    let lack = state.snapshot.lacks.first()?;
    let more = match state.snapshot.lacks.len() {
        1 => String::new(),
        n => format!(" (and {} more: F1)", n - 1),
    };
    Some((
        format!(" not seen: {}: {}{more}", lack.what, lack.why),
        false,
    ))
}

fn title(state: &State, ink: Ink, columns: usize) -> Line<'static> {
    let mut parts: Vec<(String, Style)> = vec![("gpreempt top".to_owned(), ink.title())];
    let mut add = |text: String, style: Style| {
        parts.push((format!("  {text}"), style));
    };
    if state.paused {
        add("PAUSED".to_owned(), ink.attention());
    }
    if let Some(playing) = state.playing {
        add(
            format!("recording +{} x{}", Nanos(playing.at_ns), playing.speed),
            ink.accent(),
        );
    }
    // Losses are worth more room than anything that follows.
    if state.lost > 0 {
        add(format!("LOST {} events", count(state.lost)), ink.bad());
    }
    match state.warnings().count() {
        0 => {}
        n => add(format!("{n} WARN (f)"), ink.attention()),
    }
    match &state.status {
        Status::Attaching => add("attaching probes...".to_owned(), ink.attention()),
        Status::Ended => add("END".to_owned(), ink.attention()),
        Status::Events { missed: 0 } | Status::None(_) => {}
        Status::Events { missed } => add(
            format!("{} missing", plural(*missed, "probe", "probes")),
            ink.attention(),
        ),
    }
    let queues = if state.rows.len() == state.queues {
        plural(state.queues, "queue", "queues")
    } else {
        format!(
            "{} of {}",
            state.rows.len(),
            plural(state.queues, "queue", "queues")
        )
    };
    add(
        format!(
            "{}, {}, {queues}",
            plural(state.gpus.len(), "GPU", "GPUs"),
            plural(state.processes, "process", "processes"),
        ),
        ink.plain(),
    );
    if let Some(per_s) = state.events_per_s {
        add(format!("{} events/s", rate(per_s)), ink.plain());
    }
    if state.lost == 0 && !matches!(state.status, Status::None(_) | Status::Attaching) {
        add("0 lost".to_owned(), ink.faint());
    }
    if !state.filter.is_empty() {
        add(format!("filter: {}", state.filter), ink.accent());
    }
    if state.slots {
        add("reading slots".to_owned(), ink.attention());
    }
    fitting(parts, columns)
}

/// As many parts as there is room for; the first is there in any case.
fn fitting(parts: Vec<(String, Style)>, columns: usize) -> Line<'static> {
    let mut room = columns;
    let mut spans = Vec::new();
    for (text, style) in parts {
        if spans.is_empty() || width(&text) <= room {
            let text = head(&text, room);
            room = room.saturating_sub(width(&text));
            spans.push(Span::styled(text, style));
        } else {
            break;
        }
    }
    Line::from(spans)
}

fn gpu_line(gpu: &GpuPane, ink: Ink, columns: usize) -> Line<'static> {
    let name = format!(" {} {}", gpu.gpu_id, gpu.gfx);
    let on = gpu.slots_used.or(gpu.compute_queues);
    let used = on.map(|on| on.min(gpu.slots_total));
    let slots = match used {
        Some(used) if gpu.slots_total > 0 => {
            let free = gpu.slots_total - used;
            format!(" {used} used {free} free of {}", gpu.slots_total)
        }
        Some(_) => format!(
            " {} in runlist",
            plural(on.unwrap_or(0) as usize, "queue", "queues")
        ),
        None if gpu.slots_total > 0 => format!(" {} slots", gpu.slots_total),
        None => String::new(),
    };
    let mut parts = vec![(slots, ink.plain())];
    if gpu.parked > 0 {
        parts.push((format!("  {} reserved out", gpu.parked), ink.attention()));
    }
    if let Some(processes) = gpu.processes {
        let most = gpu
            .processes_max
            .map(|most| format!("/{most}"))
            .unwrap_or_default();
        parts.push((format!("  {processes}{most} proc"), ink.plain()));
    }
    if let Some(per_s) = gpu.ops_per_s {
        parts.push((format!("  {} ops/s", rate(per_s)), ink.plain()));
    }
    if let Some(unmap_ns) = gpu.unmap_ns {
        parts.push((format!("  unmap {}", Nanos(unmap_ns)), ink.plain()));
    }
    let taken = width(&name) + parts.iter().map(|(text, _)| width(text)).sum::<usize>();
    let left = columns.saturating_sub(taken);
    let mut spans = vec![Span::styled(name, ink.title())];
    let sparks = gpu.unmap_ns.is_some() && left > BAR.0 + 3 + SPARK;
    let bar = left.saturating_sub(if sparks { SPARK + 1 } else { 0 });
    if gpu.slots_total > 0 && used.is_some() && bar >= BAR.0 + 3 {
        let inner = (bar - 3)
            .min(BAR.1)
            .min((gpu.slots_total as usize).max(BAR.0));
        spans.push(Span::raw(" ["));
        spans.extend(filled(gpu, used, inner, ink));
        spans.push(Span::raw("]"));
    }
    let taken: usize = spans.iter().map(|span| width(&span.content)).sum();
    let rest = fitting(parts, columns.saturating_sub(taken));
    spans.extend(rest.spans);
    if sparks {
        spans.push(Span::styled(
            format!(" {}", spark(&gpu.unmaps_ns, SPARK)),
            ink.accent(),
        ));
    }
    Line::from(spans)
}

/// `||||....`: used, free.
fn filled(gpu: &GpuPane, used: Option<u32>, columns: usize, ink: Ink) -> Vec<Span<'static>> {
    let used = used.unwrap_or(0) as usize;
    // What is used a little is not shown as free.
    let full = (used * columns)
        .div_ceil(gpu.slots_total.max(1) as usize)
        .min(columns);
    let style = match &gpu.over {
        Some(_) => ink.bad(),
        None => ink.good(),
    };
    vec![
        Span::styled("|".repeat(full), style),
        Span::styled(".".repeat(columns - full), ink.faint()),
    ]
}

fn over_line(gpu: &GpuPane, ink: Ink, columns: usize) -> Option<Line<'static>> {
    let over = gpu.over.as_ref()?;
    let since = over
        .for_ns
        .map(|ns| format!(" for {}", Nanos(ns)))
        .unwrap_or_default();
    let by = match &over.by {
        Some((who, cause)) => format!(" by {who} ({})", cause.name()),
        None => String::new(),
    };
    let rule = match over.rule {
        Some(Rule::Processes) => ": more processes than VMIDs",
        Some(Rule::Queues) => ": more queues than slots",
        Some(Rule::Gws) => ": several queues with GWS",
        None => "",
    };
    let text = format!(" OVERSUBSCRIBED{since}{by}{rule}");
    Some(Line::styled(head(&text, columns), ink.bad()))
}
