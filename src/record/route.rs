//! Which route a path belongs to: its first two segments, with what looks like an id left out.

use std::collections::HashMap;

use hdrhistogram::Counter;

use super::histogram::Latency;
use super::{Direction, Side};

/// Routes of one service that are told apart; the rest is [`OTHER_ROUTE`]. With two digits and both
/// sides they stay below 11 MB.
pub const MAX_ROUTES: usize = 256;
pub const OTHER_ROUTE: &str = "other";

/// A longer segment is taken for an id.
const LONGEST_SEGMENT: usize = 32;
/// Two segments with their slashes, and the mark for what follows.
const LONGEST_TEMPLATE: usize = 2 * (1 + LONGEST_SEGMENT) + DEEPER.len();
const DEEPER: &str = "/*";
const ID: &str = ":id";

/// A template on the stack, so that looking a known route up allocates nothing.
#[derive(Clone, Copy, Debug)]
pub struct Template {
    bytes: [u8; LONGEST_TEMPLATE],
    length: usize,
}

impl Template {
    pub fn as_str(&self) -> &str {
        self.bytes.get(..self.length).and_then(|bytes| str::from_utf8(bytes).ok()).unwrap_or(OTHER_ROUTE)
    }

    fn push(&mut self, text: &[u8]) {
        let end = self.length + text.len();
        // Always fits, as segments are bounded.
        if let Some(place) = self.bytes.get_mut(self.length..end) {
            place.copy_from_slice(text);
            self.length = end;
        }
    }
}

/// `/users/42/orders?page=2` → `/users/:id/*`.
pub fn route_template(target: &str) -> Template {
    let mut template = Template { bytes: [0; LONGEST_TEMPLATE], length: 0 };
    // What is cut at is ASCII, so every piece is UTF-8 as the whole is.
    let path = target.as_bytes().split(|byte| matches!(byte, b'?' | b'#')).next().unwrap_or_default();
    let mut segments = path.split(|byte| *byte == b'/').filter(|segment| !segment.is_empty());
    for segment in segments.by_ref().take(2) {
        template.push(b"/");
        template.push(if is_id(segment) { ID.as_bytes() } else { segment });
    }
    if template.length == 0 {
        template.push(b"/");
    } else if segments.next().is_some() {
        template.push(DEEPER.as_bytes());
    }
    template
}

/// Numbers, UUIDs, long hexadecimal strings, and anything too long to be a name.
fn is_id(segment: &[u8]) -> bool {
    if segment.len() > LONGEST_SEGMENT {
        return true;
    }
    let (mut dashes, mut digits, mut letters) = (0, 0, 0);
    for byte in segment {
        match byte {
            b'-' => dashes += 1,
            b'0'..=b'9' => digits += 1,
            b'a'..=b'f' | b'A'..=b'F' => letters += 1,
            _ => return false,
        }
    }
    let number = letters == 0 && dashes == 0;
    // A dozen of hexadecimal characters with a digit among them is no word, as `decade` is.
    let hex = digits > 0 && digits + letters >= 12;
    number || hex
}

/// The two histograms of one side of a route.
#[derive(Clone, Debug)]
pub(super) struct RouteSide<C: Counter> {
    pub(super) first_byte: Latency<C, 2>,
    pub(super) last_byte: Latency<C, 2>,
}

impl<C: Counter> Default for RouteSide<C> {
    fn default() -> Self {
        Self { first_byte: Latency::default(), last_byte: Latency::default() }
    }
}

/// By side and direction.
pub(super) type RouteSides<C> = [RouteSide<C>; 4];

pub(super) const fn place(side: Side, direction: Direction) -> usize {
    side as usize * 2 + direction as usize
}

/// The bounded table of a service's routes.
#[derive(Clone, Debug)]
pub(super) struct Routes<C: Counter> {
    /// The place of each in `sides`.
    named: HashMap<Box<str>, usize>,
    sides: Vec<RouteSides<C>>,
    other: RouteSides<C>,
}

impl<C: Counter> Default for Routes<C> {
    fn default() -> Self {
        Self { named: HashMap::new(), sides: Vec::new(), other: RouteSides::default() }
    }
}

impl<C: Counter> Routes<C> {
    /// The route of that template, or `other` once the table is full.
    pub(super) fn get(&mut self, template: &str) -> &mut RouteSides<C> {
        if template == OTHER_ROUTE {
            return &mut self.other;
        }
        let place = self.named.get(template).copied().unwrap_or_else(|| {
            let place = self.sides.len();
            if place < MAX_ROUTES {
                self.named.insert(template.into(), place);
                self.sides.push(RouteSides::default());
            }
            place
        });
        self.sides.get_mut(place).unwrap_or(&mut self.other)
    }

    /// `other` comes last.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &RouteSides<C>)> {
        let named = self.named.iter().filter_map(|(name, place)| Some((&**name, self.sides.get(*place)?)));
        named.chain([(OTHER_ROUTE, &self.other)])
    }

    pub(super) fn heap(&self) -> usize {
        let table = self.named.capacity() * size_of::<(Box<str>, usize)>()
            + self.sides.capacity() * size_of::<RouteSides<C>>();
        let held = |sides: &RouteSides<C>| {
            sides.iter().map(|side| side.first_byte.heap() + side.last_byte.heap()).sum::<usize>()
        };
        table + self.iter().map(|(name, sides)| name.len() + held(sides)).sum::<usize>()
    }
}

impl Routes<u64> {
    pub(super) fn merge<C: Counter>(&mut self, interval: &Routes<C>) {
        for (name, theirs) in interval.iter() {
            for (place, side) in theirs.iter().enumerate() {
                if side.first_byte.is_empty() && side.last_byte.is_empty() {
                    continue;
                }
                if let Some(ours) = self.get(name).get_mut(place) {
                    ours.first_byte.merge(&side.first_byte);
                    ours.last_byte.merge(&side.last_byte);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn ids_are_left_out_and_depth_is_bounded() {
        for (target, route) in [
            ("/", "/"),
            ("", "/"),
            ("*", "/*"),
            ("/health?x=1", "/health"),
            ("/users/42", "/users/:id"),
            ("/users/42/orders?page=2", "/users/:id/*"),
            ("/api/v1/users/42", "/api/v1/*"),
            ("/o/3f2504e0-4f89-11d3-9a0c-0305e82c3301", "/o/:id"),
            ("/blob/9f86d081884c7d659a2feaa0c55ad015", "/blob/:id"),
            ("/blob/9f86d081884c7d659a2feaa0c55ad015a3bf4f1b", "/blob/:id"),
            ("/decade/facade", "/decade/facade"),
            ("/feedfacecafe/deadbeefbead", "/feedfacecafe/deadbeefbead"),
            ("/2024-11/x", "/2024-11/x"),
            ("/-/--", "/-/--"),
            ("//a//b//", "/a/b"),
            ("/a-very-long-name-that-nobody-would-type-by-hand", "/:id"),
            ("/caf\u{e9}/menu", "/caf\u{e9}/menu"),
        ] {
            assert_eq!(route_template(target).as_str(), route, "{target}");
        }
    }

    proptest! {
        #[test]
        fn any_target_has_a_short_template(target: String) {
            let template = route_template(&target);
            prop_assert!(template.as_str().starts_with('/'));
            prop_assert!(template.as_str().len() <= LONGEST_TEMPLATE);
        }
    }

    #[test]
    fn beyond_the_limit_everything_is_other() {
        let mut routes = Routes::<u32>::default();
        for n in 0..MAX_ROUTES + 50 {
            routes.get(&format!("/r{n}x"))[0].first_byte.record(Duration::from_millis(1));
        }
        assert_eq!(routes.named.len(), MAX_ROUTES);
        assert_eq!(routes.other[0].first_byte.summary().count, 50);
        // A known one is still known.
        routes.get("/r0x")[0].first_byte.record(Duration::from_millis(1));
        assert_eq!(routes.sides[routes.named["/r0x"]][0].first_byte.summary().count, 2);
    }

    #[test]
    fn the_table_stays_within_its_memory() {
        let mut routes = Routes::<u32>::default();
        for n in 0..=MAX_ROUTES {
            for side in Side::ALL {
                let route = &mut routes.get(&format!("/r{n}x"))[place(side, Direction::Forward)];
                route.first_byte.record(Duration::from_millis(1));
                route.last_byte.record(Duration::from_millis(2));
            }
        }
        let heap = routes.heap();
        assert!(heap < 11_500_000, "{heap}");
    }
}
