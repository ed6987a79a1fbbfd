//! Whose requests they are: keys from where AWS's own tools look for them, first found first.
//!
//! 1. `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, if there is one, `AWS_SESSION_TOKEN`
//! 2. the profile in `~/.aws/credentials`, then in `~/.aws/config`
//! 3. the role of the machine that Segue runs on, if that is one of EC2
//!
//! They are looked for again now and then, and as soon as the API takes them for expired, so that whoever renews them
//! has to restart nothing. Sign-in by browser, roles to be assumed and credential processes are left to AWS's tools,
//! which can write a profile.

use std::fmt;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::Mutex;

use super::metadata;

/// A machine's new keys are there five minutes before its old ones end.
const GOOD_FOR: Duration = Duration::from_mins(4);

/// What the process finds in its environment, by name; a test has one of its own.
pub type Environment = Arc<dyn Fn(&str) -> Option<String> + Send + Sync>;

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Keys {
    pub id: String,
    pub secret: String,
    /// Of keys that are lent for a time.
    pub token: Option<String>,
}

/// Keys, and where they come from.
#[derive(Clone, Debug)]
pub(super) struct Found {
    pub keys: Keys,
    pub origin: Arc<str>,
}

pub(super) struct Credentials {
    environment: Environment,
    profile: String,
    cached: Mutex<Option<(Instant, Found)>>,
}

impl Credentials {
    pub fn new(environment: Environment, profile: Option<&str>) -> Self {
        let profile = profile_of(&environment, profile);
        Self { environment, profile, cached: Mutex::default() }
    }

    /// Or why there are none.
    pub async fn get(&self) -> Result<Found, String> {
        let mut cached = self.cached.lock().await;
        if let Some((since, found)) = &*cached
            && since.elapsed() < GOOD_FOR
        {
            return Ok(found.clone());
        }
        let found = self.look().await?;
        *cached = Some((Instant::now(), found.clone()));
        Ok(found)
    }

    /// They were not taken.
    pub async fn forget(&self) {
        *self.cached.lock().await = None;
    }

    async fn look(&self) -> Result<Found, String> {
        if let Some(found) = from_environment(&self.environment) {
            return Ok(found);
        }
        let (files, profile) = (files(&self.environment), self.profile.clone());
        // A home folder may be on a file system that hangs.
        let read = tokio::task::spawn_blocking(move || {
            files.into_iter().find_map(|file| {
                let text = std::fs::read_to_string(&file.path).ok()?;
                let keys = keys_in(&text, &file.section(&profile))?;
                let origin = format!("profile `{profile}` of {}", file.path.display()).into();
                Some(Found { keys, origin })
            })
        });
        if let Ok(Some(found)) = read.await {
            return Ok(found);
        }
        let machine = metadata::keys(&self.environment).await;
        machine.map(|keys| Found { keys, origin: "the role of this machine".into() }).map_err(|why| {
            format!(
                "there are no credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY are not set, no shared file has \
                 keys in a profile `{}`, and this machine has no role ({why})",
                self.profile
            )
        })
    }
}

/// Secrets do not belong in logs.
impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Keys").field("id", &self.id).finish_non_exhaustive()
    }
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("profile", &self.profile).finish_non_exhaustive()
    }
}

fn from_environment(environment: &Environment) -> Option<Found> {
    let set = |name: &str| environment(name).filter(|value| !value.is_empty());
    let keys = Keys {
        id: set("AWS_ACCESS_KEY_ID")?,
        secret: set("AWS_SECRET_ACCESS_KEY")?,
        token: set("AWS_SESSION_TOKEN"),
    };
    Some(Found { keys, origin: "AWS_ACCESS_KEY_ID".into() })
}

fn profile_of(environment: &Environment, configured: Option<&str>) -> String {
    configured
        .map(str::to_owned)
        .or_else(|| environment("AWS_PROFILE"))
        .unwrap_or_else(|| "default".to_owned())
}

/// The region that the shared settings have for a profile. Reads a file; meant for the start.
pub(super) fn region(environment: &Environment, profile: Option<&str>) -> Option<String> {
    let profile = profile_of(environment, profile);
    files(environment).into_iter().find_map(|file| {
        let text = std::fs::read_to_string(&file.path).ok()?;
        value(&text, &file.section(&profile), "region").map(str::to_owned)
    })
}

struct SharedFile {
    path: PathBuf,
    /// In the file of settings a profile other than the default one is a section `profile NAME`.
    prefixed: bool,
}

impl SharedFile {
    fn section(&self, profile: &str) -> String {
        if self.prefixed && profile != "default" { format!("profile {profile}") } else { profile.to_owned() }
    }
}

fn files(environment: &Environment) -> Vec<SharedFile> {
    let usual = |name: &str| environment("HOME").map(|home| PathBuf::from(home).join(".aws").join(name));
    let at = |variable: &str, name, prefixed| {
        let path = environment(variable).map(PathBuf::from).or_else(|| usual(name))?;
        Some(SharedFile { path, prefixed })
    };
    let files =
        [at("AWS_SHARED_CREDENTIALS_FILE", "credentials", false), at("AWS_CONFIG_FILE", "config", true)];
    files.into_iter().flatten().collect()
}

fn keys_in(text: &str, section: &str) -> Option<Keys> {
    let get = |name| value(text, section, name).map(str::to_owned);
    Some(Keys {
        id: get("aws_access_key_id")?,
        secret: get("aws_secret_access_key")?,
        token: get("aws_session_token"),
    })
}

/// Of one section of a file of `name = value` lines.
fn value<'t>(text: &'t str, section: &str, name: &str) -> Option<&'t str> {
    let mut here = false;
    for line in text.lines() {
        let trimmed = line.trim();
        if let Some(title) = trimmed.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            here = title.0.split_whitespace().eq(section.split_whitespace());
        } else if here
            // Indented lines belong to the setting above them.
            && !line.starts_with([' ', '\t', '#', ';'])
            && let Some((key, value)) = trimmed.split_once('=')
            && key.trim() == name
            && !value.trim().is_empty()
        {
            return Some(value.trim());
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn environment(pairs: &[(&str, &str)]) -> Environment {
        // A test never asks the network.
        let off = ("AWS_EC2_METADATA_DISABLED", "true");
        let pairs = pairs.iter().chain([&off]);
        let map: HashMap<String, String> = pairs.map(|(name, of)| ((*name).into(), (*of).into())).collect();
        Arc::new(move |name| map.get(name).cloned())
    }

    #[test]
    fn a_section_has_its_own_values() {
        let text = "\
# aws_access_key_id = commented
[default]
aws_access_key_id=A
aws_secret_access_key = b=c/d+e
s3 =
  region = nested
region = eu-west-1
[profile  other ]
aws_access_key_id = B
; region = x
";
        let keys = keys_in(text, "default").unwrap();
        assert_eq!((keys.id.as_str(), keys.secret.as_str(), keys.token), ("A", "b=c/d+e", None));
        assert_eq!(value(text, "default", "region"), Some("eu-west-1"));
        assert_eq!(value(text, "profile other", "aws_access_key_id"), Some("B"));
        assert_eq!(value(text, "profile other", "region"), None);
        assert_eq!(keys_in(text, "profile other"), None, "half of a pair of keys is none");
        assert_eq!(keys_in("[default\naws_access_key_id", "default"), None);
    }

    #[tokio::test]
    async fn the_environment_comes_before_the_files_and_their_profiles() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join(".aws")).unwrap();
        let write =
            |name: &str, text: &str| std::fs::write(folder.path().join(".aws").join(name), text).unwrap();
        write("credentials", "[default]\naws_access_key_id = F\naws_secret_access_key = s\n");
        write(
            "config",
            "[default]\nregion = eu-west-1\n[profile ops]\nregion = eu-west-2\naws_access_key_id = O\n\
             aws_secret_access_key = s\naws_session_token = t\n",
        );
        let home = folder.path().to_str().unwrap();
        let found =
            async |pairs: &[(&str, &str)], profile| Credentials::new(environment(pairs), profile).get().await;
        let given = [("HOME", home), ("AWS_ACCESS_KEY_ID", "E"), ("AWS_SECRET_ACCESS_KEY", "s")];
        assert_eq!(found(&given, None).await.unwrap().keys.id, "E");
        assert_eq!(found(&given[..2], None).await.unwrap().keys.id, "F", "half of a pair of keys is none");
        let ops = found(&[("HOME", home)], Some("ops")).await.unwrap();
        assert_eq!((ops.keys.id.as_str(), ops.keys.token.as_deref()), ("O", Some("t")));
        assert!(ops.origin.contains(".aws/config"), "{}", ops.origin);
        assert_eq!(found(&[("HOME", home), ("AWS_PROFILE", "ops")], None).await.unwrap().keys.id, "O");
        let none = found(&[("HOME", home)], Some("nobody")).await.unwrap_err();
        assert!(none.contains("`nobody`") && none.contains("AWS_ACCESS_KEY_ID"), "{none}");
        assert_eq!(region(&environment(&[("HOME", home)]), Some("ops")).as_deref(), Some("eu-west-2"));
    }

    #[tokio::test]
    async fn what_is_renewed_is_found_once_the_old_is_forgotten() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let write = |id: &str| {
            let text = format!("[default]\naws_access_key_id={id}\naws_secret_access_key=s\n");
            std::fs::write(file.path(), text).unwrap();
        };
        let path = file.path().to_str().unwrap();
        let credentials = Credentials::new(environment(&[("AWS_SHARED_CREDENTIALS_FILE", path)]), None);
        let id = async || credentials.get().await.unwrap().keys.id;
        write("old");
        assert_eq!(id().await, "old");
        write("new");
        assert_eq!(id().await, "old");
        credentials.forget().await;
        assert_eq!(id().await, "new");
    }

    #[test]
    fn a_secret_is_not_shown() {
        let keys = Keys { id: "A".into(), secret: "hush".into(), token: Some("hush".into()) };
        assert!(!format!("{keys:?}").contains("hush"));
    }
}
