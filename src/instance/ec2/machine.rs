//! A machine as the API describes it, and what its tags say that the API does not.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::answer::Part;
use crate::instance::{InstanceId, State};

pub(super) const STORE: &str = "segue:store";
pub(super) const INSTANCE: &str = "segue:instance";
pub(super) const SERVICE: &str = "segue:service";
pub(super) const ROLE: &str = "segue:role";
/// [`RUNNING`] or [`STOPPED`]: what Segue last wanted, which tells a machine that it has stopped from one that ended by
/// itself, and one in the middle of a resize from one that is to stay stopped.
pub(super) const WANTED: &str = "segue:wanted";
/// What it is made of that is needed when nothing but its id is known.
pub(super) const TYPES: &str = "segue:types";
pub(super) const PORT: &str = "segue:port";
pub(super) const GROUPS: &str = "segue:groups";
pub(super) const FENCE_GROUP: &str = "segue:fence-group";

pub(super) const RUNNING: &str = "running";
pub(super) const STOPPED: &str = "stopped";

/// The longest value that a tag may have.
pub(super) const MAX_TAG: usize = 256;
/// Lists in tags are separated by it.
pub(super) const SEPARATOR: char = ' ';

/// As the API calls them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    Pending,
    Running,
    Stopping,
    Stopped,
    /// Shutting down for good, or gone: it is remembered for an hour.
    Gone,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Machine {
    /// The API's own id.
    pub key: String,
    pub status: Status,
    pub kind: String,
    pub architecture: Option<String>,
    pub address: Option<IpAddr>,
    pub groups: Vec<String>,
    /// The volume that it boots from.
    pub volume: Option<String>,
    /// Why it is in the state that it is in.
    pub reason: Option<String>,
    launched: String,
    tags: BTreeMap<String, String>,
}

/// Of an answer that describes machines.
pub(super) fn machines(answer: Part<'_>) -> Vec<Machine> {
    let reservations = answer.items("reservationSet");
    let machines = reservations.flat_map(|reservation| reservation.items("instancesSet"));
    let mut found: Vec<_> = machines.filter_map(Machine::read).collect();
    // There is one, unless somebody copied tags; then it is always the same one.
    found.sort_by(|a, b| (&a.launched, &a.key).cmp(&(&b.launched, &b.key)));
    found
}

impl Machine {
    pub fn read(part: Part<'_>) -> Option<Self> {
        let root = part.text("rootDeviceName");
        let mut devices = part.items("blockDeviceMapping");
        let volume = devices.find(|device| device.text("deviceName") == root);
        let tags = part.items("tagSet").filter_map(|tag| Some((tag.owned("key")?, tag.owned("value")?)));
        Some(Self {
            key: part.owned("instanceId")?,
            status: match part.child("instanceState")?.text("name")? {
                "pending" => Status::Pending,
                "running" => Status::Running,
                "stopping" => Status::Stopping,
                "stopped" => Status::Stopped,
                _ => Status::Gone,
            },
            kind: part.owned("instanceType").unwrap_or_default(),
            architecture: part.owned("architecture"),
            address: part.text("privateIpAddress").and_then(|text| text.parse().ok()),
            groups: part.items("groupSet").filter_map(|group| group.owned("groupId")).collect(),
            volume: volume.and_then(|device| device.child("ebs")?.owned("volumeId")),
            reason: part.child("stateReason").and_then(|reason| reason.owned("message")),
            launched: part.owned("launchTime").unwrap_or_default(),
            tags: tags.collect(),
        })
    }

    pub fn tag(&self, name: &str) -> Option<&str> {
        self.tags.get(name).map(String::as_str)
    }

    /// Of a tag that holds a list.
    pub fn listed(&self, name: &str) -> Vec<&str> {
        self.tag(name).map(|text| text.split(SEPARATOR).collect()).unwrap_or_default()
    }

    pub fn id(&self) -> Option<InstanceId> {
        InstanceId::new(self.tag(INSTANCE)?).ok()
    }

    pub fn is_to_run(&self) -> bool {
        self.tag(WANTED) != Some(STOPPED)
    }

    /// It has the fence's group and no other.
    pub fn is_fenced(&self) -> bool {
        self.tag(FENCE_GROUP).is_some_and(|fence| self.groups == [fence])
    }

    pub fn state(&self) -> State {
        match self.status {
            Status::Gone => State::Absent,
            Status::Running if self.is_fenced() => State::Fenced,
            Status::Pending | Status::Running => State::Running,
            Status::Stopping | Status::Stopped if self.is_to_run() => {
                State::Ended { code: None, out_of_memory: false }
            }
            Status::Stopping | Status::Stopped => State::Made,
        }
    }
}

#[cfg(test)]
pub(super) mod samples {
    use super::*;
    use crate::instance::ec2::answer::read;

    pub fn machine(status: &str, groups: &[&str], tags: &[(&str, &str)]) -> Machine {
        let groups: Vec<_> =
            groups.iter().map(|group| format!("<item><groupId>{group}</groupId></item>")).collect();
        let tag =
            |(key, value): &(&str, &str)| format!("<item><key>{key}</key><value>{value}</value></item>");
        let tags: Vec<_> = tags.iter().map(tag).collect();
        let (groups, tags) = (groups.concat(), tags.concat());
        let text = format!(
            "<R><reservationSet><item><instancesSet><item><instanceId>i-1</instanceId><instanceType>t3.small</instanceType>\
             <instanceState><code>0</code><name>{status}</name></instanceState><rootDeviceName>/dev/b</rootDeviceName>\
             <privateIpAddress>10.0.0.4</privateIpAddress><groupSet>{groups}</groupSet><tagSet>{tags}</tagSet>\
             <blockDeviceMapping><item><deviceName>/dev/a</deviceName><ebs><volumeId>vol-a</volumeId></ebs></item>\
             <item><deviceName>/dev/b</deviceName><ebs><volumeId>vol-b</volumeId></ebs></item></blockDeviceMapping>\
             </item></instancesSet></item></reservationSet></R>"
        );
        read(&text, machines).unwrap().remove(0)
    }
}

#[cfg(test)]
mod tests {
    use super::samples::machine;
    use super::*;

    const ENDED: State = State::Ended { code: None, out_of_memory: false };

    #[test]
    fn a_state_is_what_the_api_says_and_what_was_wanted() {
        let state = |status, wanted| machine(status, &["sg-1"], &[(WANTED, wanted)]).state();
        for (status, wanted, expected) in [
            ("pending", RUNNING, State::Running),
            ("running", RUNNING, State::Running),
            // Told to stop, and not there yet.
            ("running", STOPPED, State::Running),
            ("stopping", STOPPED, State::Made),
            ("stopped", STOPPED, State::Made),
            ("stopped", RUNNING, ENDED),
            ("stopping", RUNNING, ENDED),
            ("shutting-down", RUNNING, State::Absent),
            ("terminated", STOPPED, State::Absent),
        ] {
            assert_eq!(state(status, wanted), expected, "{status} {wanted}");
        }
    }

    #[test]
    fn one_is_fenced_by_the_group_that_it_was_given_for_that() {
        let tags = [(FENCE_GROUP, "sg-fence"), (GROUPS, "sg-1 sg-2")];
        assert_eq!(machine("running", &["sg-fence"], &tags).state(), State::Fenced);
        assert_eq!(machine("running", &["sg-1", "sg-fence"], &tags).state(), State::Running);
        assert_eq!(machine("running", &["sg-fence"], &[]).state(), State::Running);
        assert_eq!(machine("running", &[], &tags).listed(GROUPS), ["sg-1", "sg-2"]);
        assert_eq!(machine("running", &[], &tags).volume.as_deref(), Some("vol-b"), "not the first one");
    }
}
