// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys to actions, as users of htop expect.

use ratatui::crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};

use super::state::{Action, Mode};

/// Every key: what help says of it, and of what.
pub(super) const HELP: &[(&str, &str)] = &[
    (
        "Up Down j k",
        "select a queue; the selection stays on it when rows move",
    ),
    ("PgUp PgDn Home End", "by pages, to the first, to the last"),
    ("Enter i", "details of the selected queue"),
    (
        "s",
        "read hardware slots too, or no more: costs register reads",
    ),
    ("F3 /", "search; F3 again: the next one"),
    (
        "F4 \\",
        "filter: process, container, cgroup, GPU, type, state",
    ),
    ("F5 t", "tree: queues below their processes"),
    ("F6 > <", "sort by the next column, or the one before"),
    ("I", "invert the order"),
    ("g", "one GPU after the other, then all"),
    (
        "f",
        "findings: what is worth knowing, and what to do about it",
    ),
    ("Space p", "pause; a recording is stopped"),
    ("+ -", "play a recording faster, slower"),
    ("F1 h ?", "help"),
    ("Ctrl-L  Ctrl-Z", "draw again; suspend the program"),
    ("q F10 Esc Ctrl-C", "quit"),
];

/// What a key means in a mode.
pub(super) fn action(mode: Mode, key: KeyEvent) -> Option<Action> {
    if key.kind == KeyEventKind::Release {
        return None;
    }
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('c') => Some(Action::Quit),
            KeyCode::Char('z') => Some(Action::Suspend),
            KeyCode::Char('l') => Some(Action::Redraw),
            KeyCode::Char('h') => Some(Action::Rubout),
            _ => None,
        };
    }
    let typing = matches!(mode, Mode::Search | Mode::Filter);
    let action = match key.code {
        KeyCode::Esc => Action::Back,
        KeyCode::Up => Action::Up,
        KeyCode::Down => Action::Down,
        KeyCode::PageUp => Action::PageUp,
        KeyCode::PageDown => Action::PageDown,
        KeyCode::Home => Action::First,
        KeyCode::End => Action::Last,
        KeyCode::F(10) => Action::Quit,
        KeyCode::F(3) => Action::Search,
        KeyCode::Backspace if typing => Action::Rubout,
        KeyCode::Enter if typing => Action::Done,
        KeyCode::F(4) if mode == Mode::Filter => Action::Done,
        KeyCode::Char(c) if typing => Action::Type(c),
        _ if typing => return None,
        KeyCode::F(1) | KeyCode::Char('h' | '?') => Action::Help,
        KeyCode::Char('q') if mode == Mode::Table => Action::Quit,
        KeyCode::Char('q') => Action::Back,
        KeyCode::Char('k') => Action::Up,
        KeyCode::Char('j') => Action::Down,
        KeyCode::Char('/') => Action::Search,
        KeyCode::F(4) | KeyCode::Char('\\') => Action::Filter,
        KeyCode::F(5) | KeyCode::Char('t') => Action::Tree,
        KeyCode::F(6) | KeyCode::Char('>' | '.') => Action::SortNext,
        KeyCode::Char('<' | ',') => Action::SortPrevious,
        KeyCode::Char('I') => Action::Invert,
        KeyCode::Char(' ' | 'p') => Action::Pause,
        KeyCode::Enter | KeyCode::Char('i') => Action::Details,
        KeyCode::Char('s') => Action::Slots,
        KeyCode::Char('g') => Action::NextGpu,
        KeyCode::Char('f') => Action::Findings,
        KeyCode::Char('+' | '=') => Action::Faster,
        KeyCode::Char('-') => Action::Slower,
        _ => return None,
    };
    Some(action)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(mode: Mode, code: KeyCode) -> Option<Action> {
        action(mode, KeyEvent::new(code, KeyModifiers::NONE))
    }

    #[test]
    fn habits_of_htop() {
        for (code, expected) in [
            (KeyCode::F(1), Action::Help),
            (KeyCode::F(3), Action::Search),
            (KeyCode::F(4), Action::Filter),
            (KeyCode::F(5), Action::Tree),
            (KeyCode::F(6), Action::SortNext),
            (KeyCode::F(10), Action::Quit),
            (KeyCode::Char('q'), Action::Quit),
            (KeyCode::Esc, Action::Back),
            (KeyCode::Char('j'), Action::Down),
            (KeyCode::Char('I'), Action::Invert),
            (KeyCode::Char(' '), Action::Pause),
            (KeyCode::Enter, Action::Details),
            (KeyCode::Char('f'), Action::Findings),
        ] {
            assert_eq!(press(Mode::Table, code), Some(expected), "{code:?}");
        }
    }

    #[test]
    fn letters_are_text_while_one_types() {
        assert_eq!(
            press(Mode::Filter, KeyCode::Char('q')),
            Some(Action::Type('q'))
        );
        assert_eq!(press(Mode::Filter, KeyCode::Enter), Some(Action::Done));
        assert_eq!(press(Mode::Search, KeyCode::F(3)), Some(Action::Search));
        let interrupt = KeyEvent::new(KeyCode::Char('c'), KeyModifiers::CONTROL);
        assert_eq!(action(Mode::Filter, interrupt), Some(Action::Quit));
        assert_eq!(press(Mode::Help, KeyCode::Char('q')), Some(Action::Back));
    }

    #[test]
    fn a_key_that_is_let_go_means_nothing() {
        let mut key = KeyEvent::new(KeyCode::Char('q'), KeyModifiers::NONE);
        key.kind = KeyEventKind::Release;
        assert_eq!(action(Mode::Table, key), None);
    }
}
