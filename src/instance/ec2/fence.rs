//! Refusing new connections to a machine, by the group that it was given for that.

use super::Ec2Provider;
use super::call::Call;
use super::machine::{FENCE_GROUP, GROUPS, Machine, Status};
use crate::instance::{InstanceId, ProviderError};

impl Ec2Provider {
    pub(super) async fn shut_out(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let machine = self.find(id).await?;
        match machine.tag(FENCE_GROUP) {
            Some(fence) if machine.status == Status::Running && !machine.is_fenced() => {
                self.put_into(id, &machine, &[fence]).await
            }
            _ => Ok(()),
        }
    }

    pub(super) async fn let_in(&self, id: &InstanceId) -> Result<(), ProviderError> {
        let machine = self.find(id).await?;
        let groups = machine.listed(GROUPS);
        if machine.is_fenced() && !groups.is_empty() {
            self.put_into(id, &machine, &groups).await?;
        }
        Ok(())
    }

    async fn put_into(
        &self,
        id: &InstanceId,
        machine: &Machine,
        groups: &[&str],
    ) -> Result<(), ProviderError> {
        let call = Call::new("ModifyInstanceAttribute").with("InstanceId", &machine.key);
        self.change(id, &call.list("GroupId", groups)).await
    }
}
