//! Warming the new instance, once it has what it will serve with.

use super::{Result, Stop, Work, endpoints};
use crate::instance::{External, Workload};
use crate::migrate::record::Record;
use crate::migrate::warm::{Sent, Warmed, Warming};

impl Work<'_> {
    pub(super) async fn warm(&self, record: &mut Record) -> Result {
        let service = &record.spec.service;
        let settings = self.control.settings();
        let configured = settings
            .services
            .get(service)
            .ok_or_else(|| Stop::failed(format!("service `{service}` is no longer in the settings")))?;
        let endpoints = endpoints(record);
        let warming = match Warming::new(configured, &endpoints) {
            Ok(Some(warming)) => warming,
            Ok(None) => return Ok(()),
            Err(error) => return Err(Stop::failed(format!("it cannot be warmed: {error}"))),
        };
        let recent = self.control.services.load().get(service).map(|of| of.records.lock().recent.all());
        let reads = warming.reads(recent.unwrap_or_default());
        if let Workload::External(External { isolated: false, .. }) = record.spec.workload {
            let why =
                "somebody else runs it, and it is not `isolated`, so nothing but what is teed is sent to it";
            let left_out = (endpoints.len() * reads.len()) as u64;
            record.warmed = Some(Warmed { left_out, failure: Some(why.to_owned()), ..Warmed::default() });
            return Ok(());
        }
        let sent = Sent::default();
        let mut running = std::pin::pin!(warming.run(&endpoints, &reads, &sent));
        let warmed = loop {
            let total = endpoints.len() * reads.len();
            let what = format!("it to be warmed: {} of {total} requests were sent", sent.count());
            tokio::select! {
                warmed = &mut running => break warmed,
                waited = self.wait_for(record, what) => waited?,
            }
            self.is_alive(record).await?;
        };
        if warmed.failed > 0 {
            tracing::warn!(
                migration = self.id,
                failed = warmed.failed,
                sent = warmed.sent,
                first = warmed.failure,
                "some requests that warm the new instance have failed"
            );
        }
        record.warmed = Some(warmed);
        Ok(())
    }
}
