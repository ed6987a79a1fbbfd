//! An account of its own for each test: a moto that runs for as long as it, and what the API shows to whoever asks.

use std::collections::BTreeMap;
use std::fs::File;
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use roxmltree::{Document, Node};

use crate::support::{Answer, free_port, request, tools, until};

pub const REGION: &str = "eu-central-1";
pub const IMAGE: &str = "ami-0000000000000000a";
pub const ARM_IMAGE: &str = "ami-0000000000000000b";

pub struct Account {
    pub address: SocketAddr,
    pub subnet: String,
    vpc: String,
    server: Child,
    folder: tempfile::TempDir,
}

/// What the API says of a machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    pub key: String,
    pub state: String,
    pub kind: String,
    pub groups: Vec<String>,
    pub tags: BTreeMap<String, String>,
}

impl Account {
    /// `None`, having said so, where moto could not be had.
    pub fn open() -> Option<Self> {
        if !tools::has("moto") {
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let images = folder.path().join("images.json");
        let image = |id, architecture| {
            serde_json::json!({
                "ami_id": id, "name": "app", "architecture": architecture, "virtualization_type": "hvm",
                "root_device_type": "ebs", "root_device_name": "/dev/xvda", "state": "available",
            })
        };
        let list = serde_json::json!([image(IMAGE, "x86_64"), image(ARM_IMAGE, "arm64")]);
        std::fs::write(&images, list.to_string()).unwrap();
        let (server, port) = until("moto to start", || {
            let port = free_port();
            let mut server = Command::new(Path::new(env!("CARGO_MANIFEST_DIR")).join(tools::MOTO))
                .args(["--host", "127.0.0.1", "--port", &port.to_string()])
                .env("MOTO_AMIS_PATH", &images)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(File::create(folder.path().join("log")).unwrap())
                .spawn()
                .unwrap();
            // Somebody else may have taken the port.
            let up = until("moto to listen or end", || match server.try_wait().unwrap() {
                Some(_) => Some(false),
                None => TcpStream::connect(("127.0.0.1", port)).is_ok().then_some(true),
            });
            up.then_some((server, port))
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut account = Self { address, subnet: String::new(), vpc: String::new(), server, folder };
        account.vpc = account.made("CreateVpc&CidrBlock=127.9.0.0/16", "vpcId");
        let subnet = format!("CreateSubnet&CidrBlock=127.9.1.0/24&VpcId={}", account.vpc);
        account.subnet = account.made(&subnet, "subnetId");
        Some(account)
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// An action and its parameters, as nobody in particular.
    pub fn call(&self, action: &str) -> String {
        let answer = self.post("ec2", &format!("Version=2016-11-15&Action={action}"));
        assert_eq!(answer.status, 200, "{action}: {}", answer.text());
        answer.text()
    }

    fn made(&self, action: &str, name: &str) -> String {
        text_in(&self.call(action), name)
    }

    fn post(&self, service: &str, form: &str) -> Answer {
        let who = format!("Credential=nobody/20260101/{REGION}/{service}/aws4_request");
        let bytes = format!(
            "POST / HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncontent-type: application/x-www-form-urlencoded\r\n\
             authorization: AWS4-HMAC-SHA256 {who}, SignedHeaders=host, Signature=0\r\ncontent-length: {}\r\n\r\n{form}",
            self.address,
            form.len()
        );
        request(self.address, bytes)
    }

    /// A security group.
    pub fn group(&self, name: &str, lets_out: bool) -> String {
        let action =
            format!("CreateSecurityGroup&GroupName={name}&GroupDescription={name}&VpcId={}", self.vpc);
        let group = self.made(&action, "groupId");
        if !lets_out {
            self.call(&format!(
                "RevokeSecurityGroupEgress&GroupId={group}&IpPermissions.1.IpProtocol=-1&\
                 IpPermissions.1.IpRanges.1.CidrIp=0.0.0.0/0"
            ));
        }
        group
    }

    /// Every machine that there is or was, whoever made it.
    pub fn machines(&self) -> Vec<Seen> {
        let text = self.call("DescribeInstances");
        let document = Document::parse(&text).unwrap();
        let sets = document.descendants().filter(|node| node.tag_name().name() == "instancesSet");
        sets.flat_map(|set| set.children().filter(Node::is_element)).map(seen).collect()
    }

    /// Those of them that are there.
    pub fn there(&self) -> Vec<Seen> {
        self.machines().into_iter().filter(|machine| machine.state != "terminated").collect()
    }

    /// Sizes in GiB.
    pub fn volumes(&self) -> Vec<u64> {
        let text = self.call("DescribeVolumes");
        let document = Document::parse(&text).unwrap();
        let sizes = document.descendants().filter(|node| node.tag_name().name() == "size");
        sizes.map(|size| size.text().unwrap().parse().unwrap()).collect()
    }

    /// From here on only known users may do anything. The keys of one that may do this with EC2.
    pub fn lock(&self, may: &str) -> (String, String) {
        let iam = |action: &str| {
            let answer = self.post("iam", &format!("Version=2010-05-08&Action={action}"));
            assert_eq!(answer.status, 200, "{action}: {}", answer.text());
            answer.text()
        };
        iam("CreateUser&UserName=segue");
        let keys = iam("CreateAccessKey&UserName=segue");
        let policy = format!(
            r#"{{"Version":"2012-10-17","Statement":[{{"Effect":"Allow","Action":"ec2:{may}","Resource":"*"}}]}}"#
        );
        let policy = policy.replace('"', "%22").replace('{', "%7B").replace('}', "%7D");
        iam(&format!("PutUserPolicy&UserName=segue&PolicyName=p&PolicyDocument={policy}"));
        let reset = "POST /moto-api/reset-auth HTTP/1.1\r\nhost: moto\r\nconnection: close\r\ncontent-length: 1\r\n\r\n0";
        assert_eq!(request(self.address, reset).status, 200);
        (text_in(&keys, "AccessKeyId"), text_in(&keys, "SecretAccessKey"))
    }
}

impl Drop for Account {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
            eprintln!("--- moto's log ---\n{log}");
        }
    }
}

/// The first text in an element of that name.
fn text_in(text: &str, name: &str) -> String {
    let document = Document::parse(text).unwrap();
    let found = document.descendants().find(|node| node.tag_name().name() == name);
    found.and_then(|node| node.text()).unwrap_or_else(|| panic!("no {name} in {text}")).to_owned()
}

fn child<'a>(node: Node<'a, 'a>, name: &str) -> Option<Node<'a, 'a>> {
    node.children().find(|child| child.tag_name().name() == name)
}

fn seen(node: Node<'_, '_>) -> Seen {
    let text = |node, name| child(node, name).and_then(|child| child.text()).unwrap_or_default().to_owned();
    let items = |name| {
        let list = child(node, name).into_iter().flat_map(|list| list.children());
        list.filter(Node::is_element)
    };
    Seen {
        key: text(node, "instanceId"),
        state: text(child(node, "instanceState").unwrap(), "name"),
        kind: text(node, "instanceType"),
        groups: items("groupSet").map(|group| text(group, "groupId")).collect(),
        tags: items("tagSet").map(|tag| (text(tag, "key"), text(tag, "value"))).collect(),
    }
}
