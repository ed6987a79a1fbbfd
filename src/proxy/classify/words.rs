//! Words in a path or a query key that name an action.
//!
//! Safe methods are not supposed to act, and on the web they do: the logout link, the unsubscribe link in a mail, the
//! delete link of an old administration page, the confirm link of a sign-up. The list holds verbs whose GET is known
//! to act in the wild. A false alarm costs nothing but coverage, and a rule takes it back; a miss costs a write. Nouns
//! and verbs that mostly name pages stay out: `edit`, `new`, `login`, `archive`, `search`, `export`, `start`.
//!
//! Words are looked for, not substrings: `/address` has no `add`. Words end at anything but a letter or digit and at a
//! camelCase hump; two neighbours are also tried together (`log-out`, `signOut`), and so is the whole run (`LOGout`).

/// The first action named in `text`, as it is written there. Percent-encoded bytes end a word.
pub fn action_in(text: &[u8]) -> Option<&[u8]> {
    let mut previous: Option<Part> = None;
    let mut rest = text;
    loop {
        let gap = gap(rest);
        if rest.iter().take(gap).any(|&b| b == b'/') {
            previous = None;
        }
        rest = rest.get(gap..).filter(|rest| !rest.is_empty())?;
        let run_length = rest.iter().position(|b| !b.is_ascii_alphanumeric()).unwrap_or(rest.len());
        let (run, after) = rest.split_at_checked(run_length)?;
        rest = after;
        let whole = Lower::new(run);
        if is_action(whole.as_slice())
            || ACTION_PREFIXES.iter().any(|prefix| whole.as_slice().starts_with(prefix))
        {
            return Some(run);
        }
        let mut humps = run;
        while !humps.is_empty() {
            let (part, after) = humps.split_at_checked(hump_end(humps))?;
            humps = after;
            let lower = Lower::new(part);
            let paired =
                previous.take().is_some_and(|previous| is_action(previous.lower.join(&lower).as_slice()));
            if paired || is_action(lower.as_slice()) {
                return Some(part);
            }
            previous = Some(Part { lower });
        }
    }
}

struct Part {
    lower: Lower,
}

/// Bytes before the next word; `%41` counts whole, so that its digits are not taken for a word.
fn gap(text: &[u8]) -> usize {
    let mut at = 0;
    while let Some(&byte) = text.get(at) {
        match byte {
            b'%' => at += 3,
            byte if byte.is_ascii_alphanumeric() => break,
            _ => at += 1,
        }
    }
    at
}

/// Where the first hump of a run ends: `deleteUser` after `delete`, `HTMLPage` after `HTML`.
fn hump_end(run: &[u8]) -> usize {
    let upper = |at: usize| run.get(at).is_some_and(u8::is_ascii_uppercase);
    let lower = |at: usize| run.get(at).is_some_and(u8::is_ascii_lowercase);
    (1..run.len()).find(|&at| upper(at) && (!upper(at - 1) || lower(at + 1))).unwrap_or(run.len())
}

/// The start of a word in lower case, long enough for every word of the list.
struct Lower {
    bytes: [u8; Lower::CAPACITY],
    length: usize,
}

impl Lower {
    const CAPACITY: usize = 24;

    /// Trailing digits are dropped: `logout2` is a logout. What is too long to be a listed word keeps its start.
    fn new(word: &[u8]) -> Self {
        let digits = word.iter().rev().take_while(|b| b.is_ascii_digit()).count();
        let mut lower = Self { bytes: [0; Self::CAPACITY], length: 0 };
        lower.extend(word.iter().take(word.len() - digits));
        lower
    }

    fn extend<'a>(&mut self, word: impl Iterator<Item = &'a u8>) {
        for byte in word {
            let Some(slot) = self.bytes.get_mut(self.length) else { return };
            *slot = byte.to_ascii_lowercase();
            self.length += 1;
        }
    }

    fn join(mut self, other: &Self) -> Self {
        self.extend(other.as_slice().iter());
        self
    }

    fn as_slice(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

/// Verbs that are often glued to their object: `deleteuser`, `logoutnow`, `addtocart`.
const ACTION_PREFIXES: [&[u8]; 10] = [
    b"delete",
    b"undelete",
    b"destroy",
    b"remove",
    b"logout",
    b"logoff",
    b"signout",
    b"signoff",
    b"unsubscribe",
    b"addto",
];

#[rustfmt::skip]
fn is_action(word: &[u8]) -> bool {
    matches!(
        word,
        // ends a session or a right
        b"logout" | b"logoff" | b"signout" | b"signoff" | b"revoke" | b"impersonate" | b"invalidate"
        // consent and mail links
        | b"unsubscribe" | b"subscribe" | b"optout" | b"optin" | b"unfollow" | b"follow" | b"confirm" | b"verify"
        | b"activate" | b"deactivate" | b"approve" | b"reject" | b"accept" | b"decline" | b"dismiss" | b"acknowledge"
        | b"ack" | b"claim" | b"redeem" | b"enroll" | b"register" | b"unregister"
        // destroys
        | b"delete" | b"undelete" | b"del" | b"destroy" | b"remove" | b"erase" | b"purge" | b"wipe" | b"truncate"
        | b"drop" | b"clear" | b"flush" | b"evict" | b"expire" | b"trash" | b"cancel" | b"uninstall"
        // makes or changes
        | b"create" | b"add" | b"insert" | b"update" | b"upsert" | b"save" | b"put" | b"patch" | b"upload" | b"import"
        | b"publish" | b"unpublish" | b"submit" | b"rename" | b"restore" | b"reset" | b"rotate" | b"regenerate"
        | b"toggle" | b"enable" | b"disable" | b"increment" | b"decrement" | b"merge" | b"install" | b"assign"
        | b"unassign" | b"attach" | b"detach" | b"lock" | b"unlock" | b"ban" | b"unban" | b"mute" | b"unmute" | b"block"
        | b"unblock" | b"hide" | b"unhide"
        // money
        | b"pay" | b"buy" | b"purchase" | b"charge" | b"refund" | b"transfer" | b"withdraw" | b"deposit" | b"checkout"
        // sends, counts, votes
        | b"send" | b"resend" | b"notify" | b"invite" | b"vote" | b"upvote" | b"downvote" | b"like" | b"unlike"
        | b"click" | b"track" | b"beacon" | b"pixel" | b"heartbeat"
        // operates
        | b"execute" | b"exec" | b"run" | b"trigger" | b"invoke" | b"cron" | b"shutdown" | b"restart" | b"reboot"
        | b"kill" | b"terminate" | b"abort" | b"stop" | b"reload" | b"reindex" | b"rebuild" | b"deploy" | b"rollback"
        | b"migrate" | b"sync" | b"retry" | b"requeue" | b"enqueue" | b"dequeue" | b"pop" | b"consume"
    )
}

#[cfg(test)]
mod tests {
    use super::action_in;

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
