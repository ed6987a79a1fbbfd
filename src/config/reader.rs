//! A typed reader over parsed TOML that knows the place of every key and value.
//!
//! Each key is named once, where it is used; what nobody asked for by the end of a table is unknown. A
//! fault is noted and reading goes on with a stand-in, so that one run finds them all; whoever reads must
//! therefore ask [`Sheet::into_faults`] before believing what was read.

use std::cell::RefCell;
use std::fmt::Display;
use std::io;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::ByteSize;
use super::fault::Place;
use super::units::{format_duration, parse_duration};

/// Nothing in a proxy waits longer on purpose; also keeps sums of instants far from overflow.
const MAX_DURATION: Duration = Duration::from_hours(24);

/// What a file that the configuration names must hold.
pub(super) type Content = fn(&[u8]) -> Result<(), String>;

/// How named files are opened.
pub(super) type Open<'s> = &'s dyn Fn(&Path) -> io::Result<Vec<u8>>;

/// One file being read: what all its tables share.
pub(super) struct Sheet<'s> {
    /// Relative paths start here.
    folder: &'s Path,
    /// `None` = files that the configuration names are left alone.
    open: Option<Open<'s>>,
    faults: RefCell<Vec<(Place, String)>>,
    /// Every key that was asked for, so that a test can tell which of them the examples leave out.
    #[cfg(test)]
    pub asked: RefCell<std::collections::BTreeSet<String>>,
}

impl<'s> Sheet<'s> {
    pub fn new(folder: &'s Path, open: Option<Open<'s>>) -> Self {
        Self {
            folder,
            open,
            faults: RefCell::default(),
            #[cfg(test)]
            asked: RefCell::default(),
        }
    }

    pub fn fault(&self, place: Place, message: impl Into<String>) {
        self.faults.borrow_mut().push((place, message.into()));
    }

    pub fn root<'t, T>(&'t self, entries: &'t DeTable<'t>, read: impl FnOnce(&mut Table<'t>) -> T) -> T {
        Table::read(self, String::new(), Place::START, Some(entries), read)
    }

    pub fn into_faults(self) -> Vec<(Place, String)> {
        self.faults.into_inner()
    }
}

/// A table, and which of its keys have been asked for.
pub(super) struct Table<'t> {
    sheet: &'t Sheet<'t>,
    path: String,
    place: Place,
    /// `None` = the table is absent, and every key has its default.
    entries: Option<&'t DeTable<'t>>,
    known: Vec<&'static str>,
}

impl<'t> Table<'t> {
    fn read<T>(
        sheet: &'t Sheet<'t>,
        path: String,
        place: Place,
        entries: Option<&'t DeTable<'t>>,
        read: impl FnOnce(&mut Self) -> T,
    ) -> T {
        let mut table = Self { sheet, path, place, entries, known: Vec::new() };
        let value = read(&mut table);
        table.report_unknown();
        value
    }

    pub fn take(&mut self, key: &'static str) -> Option<Item<'t>> {
        self.known.push(key);
        let value = self.entries?.get(key)?;
        Some(Item { sheet: self.sheet, path: self.path_of(key), place: Place(value.span().start), value })
    }

    pub fn has(&mut self, key: &'static str) -> bool {
        self.take(key).is_some()
    }

    /// `why` completes "`table` needs `key`: …".
    pub fn require(&mut self, key: &'static str, why: &str) -> Option<Item<'t>> {
        let item = self.take(key);
        if item.is_none() {
            self.fault(format!("needs `{key}`: {why}"));
        }
        item
    }

    /// A table whose keys all have defaults: absent is the same as empty.
    pub fn group<T>(&mut self, key: &'static str, read: impl FnOnce(&mut Self) -> T) -> T {
        let entries = self.take(key).and_then(Item::entries);
        let place = entries.as_ref().map_or(self.place, |(place, _)| *place);
        Self::read(self.sheet, self.path_of(key), place, entries.map(|(_, entries)| entries), read)
    }

    pub fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.take(key).and_then(|item| item.flag()).unwrap_or(default)
    }

    pub fn number<N>(&mut self, key: &'static str, default: N, range: RangeInclusive<N>) -> N
    where
        N: TryFrom<i128> + PartialOrd + Display,
    {
        self.take(key).and_then(|item| item.number(&range)).unwrap_or(default)
    }

    pub fn size(
        &mut self,
        key: &'static str,
        default: ByteSize,
        range: RangeInclusive<ByteSize>,
    ) -> ByteSize {
        self.take(key).and_then(|item| item.size(&range)).unwrap_or(default)
    }

    pub fn duration(&mut self, key: &'static str, default: Duration) -> Duration {
        self.take(key).and_then(|item| item.duration()).unwrap_or(default)
    }

    pub fn choice<T: Copy>(&mut self, key: &'static str, default: T, options: &[(&str, T)]) -> T {
        self.take(key).and_then(|item| item.choice(options)).unwrap_or(default)
    }

    /// A list of texts; absent is the same as empty.
    pub fn texts<T>(&mut self, key: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        self.take(key).map(|item| item.list(|item| item.text_as(&read))).unwrap_or_default()
    }

    /// As [`Table::texts`], for lists where absent means any: written out, they must not be empty.
    pub fn conditions<T>(&mut self, key: &'static str, read: impl Fn(&str) -> Result<T, String>) -> Vec<T> {
        if let Some(item) = self.take(key).filter(Item::is_empty_list) {
            item.fault("is empty and would match nothing; leave it out to match any");
        }
        self.texts(key, read)
    }

    /// A fault of the table as a whole; `message` goes on after its name.
    pub fn fault(&self, message: impl Display) {
        let subject = if self.path.is_empty() { "this file".into() } else { format!("`{}`", self.path) };
        self.sheet.fault(self.place, format!("{subject} {message}"));
    }

    /// A fault elsewhere than at the table's own place; `message` stands alone.
    pub fn fault_at(&self, place: Place, message: impl Into<String>) {
        self.sheet.fault(place, message);
    }

    fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    fn report_unknown(&self) {
        #[cfg(test)]
        self.sheet.asked.borrow_mut().extend(self.known.iter().map(|key| self.path_of(key)));
        let unknown = self.entries.into_iter().flat_map(DeTable::keys);
        for key in unknown.filter(|key| !self.known.contains(&key.get_ref().as_ref())) {
            let subject = format!("unknown key `{}`", self.path_of(key.get_ref()));
            let hint = nearest(key.get_ref(), &self.known);
            self.sheet.fault(Place(key.span().start), format!("{subject}; {hint}"));
        }
    }
}

/// One value, with its full name and its place.
pub(super) struct Item<'t> {
    sheet: &'t Sheet<'t>,
    path: String,
    place: Place,
    value: &'t Spanned<DeValue<'t>>,
}

impl<'t> Item<'t> {
    pub fn place(&self) -> Place {
        self.place
    }

    /// A fault of this value; `message` goes on after its name.
    pub fn fault(&self, message: impl Display) {
        self.sheet.fault(self.place, format!("`{}` {message}", self.path));
    }

    pub fn is(&self, text: &str) -> bool {
        self.value.get_ref().as_str() == Some(text)
    }

    pub fn is_empty_list(&self) -> bool {
        self.value.get_ref().as_array().is_some_and(|list| list.is_empty())
    }

    pub fn is_table(&self) -> bool {
        self.value.get_ref().is_table()
    }

    pub fn table<T>(self, read: impl FnOnce(&mut Table<'t>) -> T) -> Option<T> {
        let (sheet, path) = (self.sheet, self.path.clone());
        let (place, entries) = self.entries()?;
        Some(Table::read(sheet, path, place, Some(entries), read))
    }

    /// A table whose keys are names that the operator chose.
    pub fn named(self) -> Option<Vec<(&'t str, Place, Self)>> {
        let (sheet, path) = (self.sheet, self.path.clone());
        let (_, entries) = self.entries()?;
        let named = entries.iter().map(|(key, value)| {
            let name: &str = key.get_ref();
            let item = Self { sheet, path: join(&path, name), place: Place(value.span().start), value };
            (name, Place(key.span().start), item)
        });
        Some(named.collect())
    }

    pub fn list<T>(&self, read: impl Fn(Self) -> Option<T>) -> Vec<T> {
        let Some(list) = self.value.get_ref().as_array() else {
            self.wrong("a list");
            return Vec::new();
        };
        let items = list.iter().map(|value| Self {
            sheet: self.sheet,
            path: self.path.clone(),
            place: Place(value.span().start),
            value,
        });
        items.filter_map(read).collect()
    }

    pub fn text(&self) -> Option<&'t str> {
        let text = self.value.get_ref().as_str();
        if text.is_none() {
            self.wrong("a string");
        }
        text
    }

    pub fn text_as<T>(&self, read: impl Fn(&str) -> Result<T, String>) -> Option<T> {
        self.settle(read(self.text()?))
    }

    pub fn parsed<T: FromStr<Err: Display>>(&self) -> Option<T> {
        self.text_as(|text| text.parse::<T>().map_err(|error| error.to_string()))
    }

    pub fn choice<T: Copy>(&self, options: &[(&str, T)]) -> Option<T> {
        let chosen =
            self.value.get_ref().as_str().and_then(|text| options.iter().find(|(name, _)| *name == text));
        if chosen.is_none() {
            let names: Vec<_> = options.iter().map(|(name, _)| format!("{name:?}")).collect();
            self.wrong(&names.join(" or "));
        }
        chosen.map(|(_, value)| *value)
    }

    pub fn flag(&self) -> Option<bool> {
        let flag = self.value.get_ref().as_bool();
        if flag.is_none() {
            self.wrong("true or false");
        }
        flag
    }

    pub fn number<N>(&self, range: &RangeInclusive<N>) -> Option<N>
    where
        N: TryFrom<i128> + PartialOrd + Display,
    {
        let Some(number) = self.integer() else {
            self.wrong(&format!("a whole number from {} to {}", range.start(), range.end()));
            return None;
        };
        let accepted = N::try_from(number).ok().filter(|number| range.contains(number));
        if accepted.is_none() {
            self.fault(format!("is {number}; it must be from {} to {}", range.start(), range.end()));
        }
        accepted
    }

    /// Any number, whole or not.
    pub fn decimal(&self) -> Option<f64> {
        let number = match self.value.get_ref() {
            DeValue::Float(float) => float.as_str().parse().ok(),
            _ => self.integer().map(|number| number as f64),
        };
        if number.is_none() {
            self.wrong("a number");
        }
        number
    }

    pub fn duration(&self) -> Option<Duration> {
        let Some(text) = self.value.get_ref().as_str() else {
            self.wrong("a duration with its unit, such as \"250ms\", \"5s\", \"2m\" or \"1h\"");
            return None;
        };
        let duration = self.settle(parse_duration(text))?;
        if duration.is_zero() || duration > MAX_DURATION {
            let longest = format_duration(MAX_DURATION);
            self.fault(format!("is {text:?}; it must be longer than zero and at most {longest}"));
            return None;
        }
        Some(duration)
    }

    /// A text, a number, true or false, as JSON has them.
    pub fn scalar(&self) -> Option<serde_json::Value> {
        let found = match (self.value.get_ref(), self.integer()) {
            (DeValue::String(text), _) => Some(text.as_ref().into()),
            (DeValue::Boolean(flag), _) => Some((*flag).into()),
            (DeValue::Float(float), _) => float.as_str().parse::<f64>().ok().map(serde_json::Value::from),
            (_, Some(number)) => i64::try_from(number).ok().map(serde_json::Value::from),
            _ => None,
        };
        if found.is_none() {
            self.wrong("a string, a number, true or false");
        }
        found
    }

    pub fn size(&self, range: &RangeInclusive<ByteSize>) -> Option<ByteSize> {
        let size = match (self.value.get_ref().as_str(), self.integer()) {
            (Some(text), _) => self.settle(text.parse::<ByteSize>())?,
            (_, Some(bytes)) if bytes >= 0 => ByteSize(u64::try_from(bytes).unwrap_or(u64::MAX)),
            _ => {
                self.wrong("a size, such as \"64 KiB\", \"1 MB\" or a whole number of bytes");
                return None;
            }
        };
        if !range.contains(&size) {
            self.fault(format!("is {size}; it must be from {} to {}", range.start(), range.end()));
            return None;
        }
        Some(size)
    }

    /// A path; a relative one starts at the folder of the configuration file.
    pub fn path(&self) -> Option<PathBuf> {
        let text = self.text()?;
        if text.is_empty() || text.contains('\0') {
            self.fault("must be a path");
            return None;
        }
        Some(self.sheet.folder.join(text))
    }

    /// A path whose file must be readable and hold the right thing.
    pub fn file(&self, content: Content) -> Option<PathBuf> {
        let path = self.path()?;
        if let Some(bytes) = self.bytes_of(&path)
            && let Err(reason) = content(&bytes)
        {
            self.fault(format!("names {}, which {reason}", path.display()));
        }
        Some(path)
    }

    /// What the file at `path` holds; `None` with a fault when it cannot be read, without when it is not to be.
    pub fn bytes_of(&self, path: &Path) -> Option<Vec<u8>> {
        let bytes = (self.sheet.open?)(path);
        if let Err(error) = &bytes {
            self.fault(format!("names {}, which cannot be read: {error}", path.display()));
        }
        bytes.ok()
    }

    fn entries(self) -> Option<(Place, &'t DeTable<'t>)> {
        let entries = self.value.get_ref().as_table();
        if entries.is_none() {
            self.wrong("a table");
        }
        entries.map(|entries| (self.place, entries))
    }

    fn integer(&self) -> Option<i128> {
        let number = self.value.get_ref().as_integer()?;
        i128::from_str_radix(number.as_str(), number.radix()).ok()
    }

    fn settle<T>(&self, result: Result<T, impl Display>) -> Option<T> {
        result.map_err(|error| self.sheet.fault(self.place, format!("`{}`: {error}", self.path))).ok()
    }

    /// A fault of the wrong kind of value: "must be `wanted`, not …".
    pub fn wrong(&self, wanted: &str) {
        let found = match self.value.get_ref() {
            DeValue::String(text) => format!("{text:?}"),
            DeValue::Integer(number) => format!("the number {number}"),
            DeValue::Float(number) => format!("the number {number}"),
            DeValue::Boolean(flag) => flag.to_string(),
            DeValue::Datetime(_) => "a date or time".into(),
            DeValue::Array(_) => "a list".into(),
            DeValue::Table(_) => "a table".into(),
        };
        self.fault(format!("must be {wanted}, not {found}"));
    }
}

fn join(path: &str, key: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
    let bare = !key.is_empty() && key.chars().all(plain);
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}

/// The nearest known key; with the rest of them when it is too far away to have been meant.
fn nearest(key: &str, known: &[&str]) -> String {
    let mut known = known.to_vec();
    known.sort_by_key(|candidate| strsim::osa_distance(key, candidate));
    known.dedup();
    match known.as_slice() {
        [] => "no key is known here; remove it".into(),
        [first, ..] if strsim::osa_distance(key, first) <= 1 + key.len() / 4 => {
            format!("did you mean `{first}`?")
        }
        all => format!("known here, nearest first: {}", all.join(", ")),
    }
}
