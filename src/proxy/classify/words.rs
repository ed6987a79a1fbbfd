//! Words in a path or a query key that name an action.
//!
//! Safe methods are not supposed to act, and on the web they do: the logout link, the unsubscribe link in a mail, the
//! delete link of an old administration page, the confirm link of a sign-up. The list holds verbs whose GET is known
//! to act in the wild. A false alarm costs nothing but coverage, and a rule takes it back; a miss costs a write. Nouns
//! and verbs that mostly name pages stay out: `edit`, `new`, `login`, `archive`, `search`, `export`, `start`.
//!
//! Words are looked for, not substrings: `/address` has no `add`. Words end at anything but a letter or digit and at a
//! camelCase hump; two neighbours are also tried together (`log-out`, `signOut`), and so is the whole run (`lOgOut`).

/// The first action named in `text`, as it is written there. Percent-encoded bytes end a word.
pub fn action_in(text: &[u8]) -> Option<&[u8]> {
    find(text, 3)
}

/// The same in text that is decoded already, where a `%` is one like any other.
pub fn action_in_decoded(text: &[u8]) -> Option<&[u8]> {
    find(text, 1)
}

/// `percent`: so many bytes belong to a `%`.
fn find(text: &[u8], percent: usize) -> Option<&[u8]> {
    let mut previous: &[u8] = b"";
    let mut rest = text;
    loop {
        let word = next_word(rest, percent)?;
        if word.begins_segment {
            previous = b"";
        }
        let (run, after) = rest.get(word.from..)?.split_at_checked(word.length)?;
        rest = after;
        if is_action(b"", run) || starts_with_action(run) {
            return Some(run);
        }
        if !word.has_humps {
            // One hump, as nearly everywhere.
            if !previous.is_empty() && is_action(previous, run) {
                return Some(run);
            }
            previous = run;
            continue;
        }
        let mut humps = run;
        while !humps.is_empty() {
            let (hump, after) = humps.split_at_checked(hump_end(humps))?;
            humps = after;
            let paired = !previous.is_empty() && is_action(previous, hump);
            if paired || (hump.len() < run.len() && is_action(b"", hump)) {
                return Some(hump);
            }
            previous = hump;
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Other,
    Upper,
    /// A small letter or a digit.
    Plain,
}

const KINDS: [Kind; 256] = {
    let mut kinds = [Kind::Other; 256];
    let mut byte = 0;
    while byte < 128 {
        let at = byte as u8;
        if at.is_ascii_uppercase() {
            kinds[byte] = Kind::Upper;
        } else if at.is_ascii_alphanumeric() {
            kinds[byte] = Kind::Plain;
        }
        byte += 1;
    }
    kinds
};

/// Letters and digits without anything between them.
struct Word {
    from: usize,
    length: usize,
    has_humps: bool,
    /// There is a `/` before it.
    begins_segment: bool,
}

/// The first word of `text`. An encoded byte such as `%41` counts whole, so that its digits are not taken for one.
fn next_word(text: &[u8], percent: usize) -> Option<Word> {
    let kind = |byte: &u8| KINDS[usize::from(*byte)];
    let (mut from, mut begins_segment) = (0, false);
    loop {
        match text.get(from)? {
            b'%' => from += percent,
            byte if kind(byte) != Kind::Other => break,
            byte => {
                begins_segment |= *byte == b'/';
                from += 1;
            }
        }
    }
    let (mut length, mut has_humps) = (0, false);
    for byte in text.get(from..)? {
        match kind(byte) {
            Kind::Other => break,
            Kind::Upper => has_humps = true,
            Kind::Plain => {}
        }
        length += 1;
    }
    Some(Word { from, length, has_humps, begins_segment })
}

/// Where the first hump of a run ends: `deleteUser` after `delete`, `HTMLPage` after `HTML`.
fn hump_end(run: &[u8]) -> usize {
    let upper = |at: usize| run.get(at).is_some_and(u8::is_ascii_uppercase);
    let lower = |at: usize| run.get(at).is_some_and(u8::is_ascii_lowercase);
    (1..run.len()).find(|&at| upper(at) && (!upper(at - 1) || lower(at + 1))).unwrap_or(run.len())
}

/// Whether `before` and `word`, written together, are listed. Digits at the end do not matter: `logout2` is a logout.
fn is_action(before: &[u8], word: &[u8]) -> bool {
    let digits = word.iter().rev().take_while(|b| b.is_ascii_digit()).count();
    let word = word.get(..word.len() - digits).unwrap_or(word);
    let Some(initial) = before.first().or(word.first()) else { return false };
    let length = before.len() + word.len();
    if length >= LONGEST || LENGTHS[usize::from(*initial)] & (1 << length) == 0 {
        return false;
    }
    actions(initial.to_ascii_lowercase()).iter().any(|action| {
        action.len() == length
            && action.as_bytes().split_at_checked(before.len()).is_some_and(|(start, end)| {
                start.eq_ignore_ascii_case(before) && end.eq_ignore_ascii_case(word)
            })
    })
}

/// No action has so many letters.
const LONGEST: usize = u16::BITS as usize;

/// For each initial, in both cases, a bit for each length that an action has: nearly every word is told apart by that.
const LENGTHS: [u16; 256] = {
    let mut lengths = [0; 256];
    let mut initial = 0;
    while initial < 128 {
        let actions = actions((initial as u8).to_ascii_lowercase());
        let mut at = 0;
        while at < actions.len() {
            // Past the last bit this does not compile.
            lengths[initial] |= 1 << actions[at].len();
            at += 1;
        }
        initial += 1;
    }
    lengths
};

/// Verbs that are often glued to their object: `deleteuser`, `logoutnow`, `addtocart`.
fn starts_with_action(run: &[u8]) -> bool {
    let glued: &[&str] = match run.first().map(u8::to_ascii_lowercase) {
        Some(b'a') => &["addto"],
        Some(b'd') => &["delete", "destroy"],
        Some(b'l') => &["logoff", "logout"],
        Some(b'r') => &["remove"],
        Some(b's') => &["signoff", "signout"],
        Some(b'u') => &["undelete", "unsubscribe"],
        _ => return false,
    };
    glued
        .iter()
        .any(|verb| run.get(..verb.len()).is_some_and(|start| start.eq_ignore_ascii_case(verb.as_bytes())))
}

/// The list, by initial so that a word is compared with a few entries only.
///
/// What ends a session or a right (`logout`, `revoke`), gives or takes consent (`unsubscribe`, `confirm`, `approve`),
/// destroys (`delete`, `purge`), makes or changes (`create`, `toggle`), moves money (`pay`, `refund`), sends, counts or
/// votes (`resend`, `click`, `like`), or operates something (`restart`, `deploy`).
#[rustfmt::skip]
const fn actions(initial: u8) -> &'static [&'static str] {
    match initial {
        b'a' => &["abort", "accept", "ack", "acknowledge", "activate", "add", "approve", "assign", "attach"],
        b'b' => &["ban", "beacon", "block", "buy"],
        b'c' => &["cancel", "charge", "checkout", "claim", "clear", "click", "confirm", "consume", "create", "cron"],
        b'd' => &[
            "deactivate", "decline", "decrement", "del", "delete", "deploy", "deposit", "dequeue", "destroy", "detach",
            "disable", "dismiss", "downvote", "drop",
        ],
        b'e' => &["enable", "enqueue", "enroll", "erase", "evict", "exec", "execute", "expire"],
        b'f' => &["flush", "follow"],
        b'h' => &["heartbeat", "hide"],
        b'i' => &["impersonate", "import", "increment", "insert", "install", "invalidate", "invite", "invoke"],
        b'k' => &["kill"],
        b'l' => &["like", "lock", "logoff", "logout"],
        b'm' => &["merge", "migrate", "mute"],
        b'n' => &["notify"],
        b'o' => &["optin", "optout"],
        b'p' => &["patch", "pay", "pixel", "pop", "publish", "purchase", "purge", "put"],
        b'r' => &[
            "reboot", "rebuild", "redeem", "refund", "regenerate", "register", "reindex", "reject", "reload", "remove",
            "rename", "requeue", "resend", "reset", "restart", "restore", "retry", "revoke", "rollback", "rotate", "run",
        ],
        b's' => &["save", "send", "shutdown", "signoff", "signout", "stop", "submit", "subscribe", "sync"],
        b't' => &["terminate", "toggle", "track", "transfer", "trash", "trigger", "truncate"],
        b'u' => &[
            "unassign", "unban", "unblock", "undelete", "unfollow", "unhide", "uninstall", "unlike", "unlock", "unmute",
            "unpublish", "unregister", "unsubscribe", "update", "upload", "upsert", "upvote",
        ],
        b'v' => &["verify", "vote"],
        b'w' => &["wipe", "withdraw"],
        _ => &[],
    }
}

#[cfg(test)]
mod tests {
    use super::{action_in, action_in_decoded, actions};

    fn found(text: &str) -> Option<&str> {
        action_in(text.as_bytes()).and_then(|word| std::str::from_utf8(word).ok())
    }

    #[test]
    fn actions_are_found_however_they_are_written() {
        for path in [
            "/logout",
            "/LOGOUT",
            "/LOGout",
            "/LogOut",
            "/log-out",
            "/log_out",
            "/log.out",
            "/log%20out",
            "/logout.php",
            "/user/logout/",
            "/do_logout.action",
            "/logout2",
            "/signOut",
            "/sign-off",
            "/opt-out",
            "/items/3:batchDelete",
            "/deleteuser",
            "/deLeteUser",
            "/rEsEt",
            "/cancel2",
            "/HTTPDelete",
            "/items/7/delete",
            "/unsubscribe/abc",
            "/cart/addtocart",
            "/mail/un-subscribe",
            "/a/b/c/reset_password",
            "/%C3%A9-delete",
        ] {
            assert!(found(path).is_some(), "{path}");
        }
        assert_eq!(found("/sign-out"), Some("out"));
        assert_eq!(found("/a/signOut/b"), Some("signOut"));
    }

    #[test]
    fn each_action_is_found() {
        for action in (b'a'..=b'z').flat_map(actions) {
            assert!(action_in(action.as_bytes()).is_some(), "{action}");
            let (start, end) = action.split_at(action.len() / 2);
            assert!(action_in(format!("/{start}-{end}7").as_bytes()).is_some(), "{action}");
        }
    }

    #[test]
    fn in_decoded_text_a_percent_sign_hides_nothing() {
        for text in ["50%delete", "50%/delete", "%delete", "log%out"] {
            assert!(action_in_decoded(text.as_bytes()).is_some(), "{text}");
        }
        assert_eq!(action_in(b"/50%de/lete"), None, "where it is encoded, these are no letters");
    }

    #[test]
    fn other_words_are_left_alone() {
        for path in [
            "/",
            "/address",
            "/products/42",
            "/posts/1/edit",
            "/login",
            "/catalog/outdoor",
            "/log/out",
            "/additional",
            "/payment-methods",
            "/inputs",
            "/synchronous",
            "/likes",
            "/tracks/1",
            "/settings",
            "/api/v1/items/3f2add4e-11aa-4bbb-8ccc-0123456789ab",
            "/assets/app.3fa2.js",
            "/search",
            "/buyers",
            "/%C3%A9t%C3%A9",
            "/a-very-long-segment-without-any-suspicious-meaning-whatsoever",
        ] {
            assert_eq!(found(path), None, "{path}");
        }
    }
}
