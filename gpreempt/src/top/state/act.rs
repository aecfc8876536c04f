// SPDX-License-Identifier: MIT OR Apache-2.0
//! What keys do to the state.

use super::{Mode, State};

/// What a key asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) enum Action {
    Quit,
    /// Out of details, help or a text that is typed; else the end.
    Back,
    Up,
    Down,
    PageUp,
    PageDown,
    First,
    Last,
    Search,
    Filter,
    Tree,
    SortNext,
    SortPrevious,
    Invert,
    Pause,
    Details,
    Help,
    Findings,
    NextGpu,
    Faster,
    Slower,
    /// Read the hardware's slots too, or no more.
    Slots,
    Redraw,
    Suspend,
    Type(char),
    Rubout,
    Done,
}

/// What the state cannot do itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::top) enum Effect {
    Quit,
    Suspend,
    Redraw,
    /// Take another picture, with the hardware's slots or without.
    Slots,
    /// The recording plays, or it does not, this fast.
    Play,
}

/// Slowest and fastest that a recording is played.
const SPEEDS: std::ops::RangeInclusive<f64> = 0.0625..=1024.0;

/// A text that is typed is not longer.
const MOST_TYPED: usize = 64;

impl State {
    /// Does what a key asks for; returns what is left to do.
    pub(in crate::top) fn act(&mut self, action: Action) -> Option<Effect> {
        match action {
            Action::Quit => return Some(Effect::Quit),
            Action::Suspend => return Some(Effect::Suspend),
            Action::Redraw => return Some(Effect::Redraw),
            Action::Slots => {
                self.slots = !self.slots;
                return Some(Effect::Slots);
            }
            Action::Back => return self.back(),
            Action::Up => self.go(-1),
            Action::Down => self.go(1),
            Action::PageUp => self.go(-self.page_step()),
            Action::PageDown => self.go(self.page_step()),
            Action::First => self.go(isize::MIN),
            Action::Last => self.go(isize::MAX),
            Action::Search => self.search(),
            Action::Filter => self.mode = Mode::Filter,
            Action::Tree => {
                self.tree = !self.tree;
                self.arrange();
            }
            Action::SortNext | Action::SortPrevious => {
                self.sort = self.sort.step(action == Action::SortNext);
                self.inverted = false;
                self.arrange();
            }
            Action::Invert => {
                self.inverted = !self.inverted;
                self.arrange();
            }
            Action::Pause => {
                self.paused = !self.paused;
                return Some(Effect::Play);
            }
            Action::Details if self.selected_row().is_some() => self.open(Mode::Details),
            Action::Help => self.open(Mode::Help),
            Action::Findings => self.open(Mode::Findings),
            Action::NextGpu => self.next_gpu(),
            Action::Faster | Action::Slower => {
                let factor = if action == Action::Faster { 2.0 } else { 0.5 };
                let playing = self.playing.as_mut()?;
                playing.speed = (playing.speed * factor).clamp(*SPEEDS.start(), *SPEEDS.end());
                return Some(Effect::Play);
            }
            Action::Type(c) => self.edit(|text| {
                if text.chars().count() < MOST_TYPED {
                    text.push(c);
                }
            }),
            Action::Rubout => self.edit(|text| {
                text.pop();
            }),
            Action::Done => self.mode = Mode::Table,
            Action::Details => {}
        }
        None
    }

    fn page_step(&self) -> isize {
        isize::try_from(self.page).unwrap_or(isize::MAX).max(1)
    }

    fn open(&mut self, mode: Mode) {
        self.scroll = 0;
        self.mode = if self.mode == mode { Mode::Table } else { mode };
    }

    fn back(&mut self) -> Option<Effect> {
        match self.mode {
            Mode::Table => return Some(Effect::Quit),
            Mode::Filter => {
                self.filter.clear();
                self.arrange();
            }
            Mode::Search => self.search.clear(),
            Mode::Details | Mode::Help | Mode::Findings => {}
        }
        self.mode = Mode::Table;
        None
    }

    fn go(&mut self, by: isize) {
        match self.mode {
            Mode::Details | Mode::Help | Mode::Findings => {
                self.scroll = self.scroll.saturating_add_signed(by)
            }
            _ => self.select(self.place.saturating_add_signed(by)),
        }
    }

    /// Begins a text to look for; again, goes to the next queue that has it.
    fn search(&mut self) {
        if self.mode == Mode::Search {
            self.find(1);
        } else {
            self.search.clear();
            self.mode = Mode::Search;
        }
    }

    /// Selects the first queue that has the text, from so many after the selection on, round.
    fn find(&mut self, from: usize) {
        let typed = self.search.to_lowercase();
        let lines = self.queue_lines();
        if typed.is_empty() || lines.is_empty() {
            return;
        }
        let found = (0..lines.len())
            .map(|step| (self.place + from + step) % lines.len())
            .find(|place| self.rows[lines[*place]].matches(&typed));
        if let Some(place) = found {
            self.select(place);
        }
    }

    fn edit(&mut self, change: impl FnOnce(&mut String)) {
        match self.mode {
            Mode::Filter => {
                change(&mut self.filter);
                self.arrange();
            }
            Mode::Search => {
                change(&mut self.search);
                self.find(0);
            }
            _ => {}
        }
    }

    /// All nodes, then each alone, then all again.
    fn next_gpu(&mut self) {
        let at = self
            .gpu_filter
            .and_then(|gpu_id| self.gpus.iter().position(|gpu| gpu.gpu_id == gpu_id));
        let next = match (self.gpu_filter, at) {
            (None, _) => 0,
            (Some(_), Some(at)) => at + 1,
            (Some(_), None) => self.gpus.len(),
        };
        self.gpu_filter = self.gpus.get(next).map(|gpu| gpu.gpu_id);
        self.arrange();
    }
}
