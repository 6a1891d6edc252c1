use async_trait::async_trait;
use std::sync::Arc;
use terroir_action::{Access, Context, LiveAction, LiveContext, Target};
use terroir_agent_api::{QueryAnswer, QueryKind};
use terroir_aws_model::ec2;
use terroir_types::{Error, HostId, InstanceId, Timestamp};

use crate::gateway::HostQueries;
use crate::ops;

/// Which host to ask; none for an instance that has left its host.
async fn host_of(cx: &LiveContext<'_>, id: InstanceId) -> Result<Option<HostId>, Error> {
    let txn = cx.store.read().await?;
    Ok(ops::find_instance(&txn, cx.caller.account, id)?.host())
}

/// Base64 bytes and when they were taken; none if the guest does not run.
async fn ask(hosts: &dyn HostQueries, host: HostId, kind: QueryKind) -> Result<Option<(String, Timestamp)>, Error> {
    match hosts.ask(host, kind).await? {
        QueryAnswer::Bytes { base64, taken_at } => Ok(Some((base64, taken_at))),
        QueryAnswer::NotRunning => Ok(None),
        QueryAnswer::Failed { detail } => {
            Err(Error::unavailable("The instance's host cannot answer now. Try again later.").with_internal(detail))
        }
    }
}

pub struct GetConsoleOutput {
    pub hosts: Arc<dyn HostQueries>,
}

#[async_trait]
impl LiveAction for GetConsoleOutput {
    type Op = ec2::ops::GetConsoleOutput;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &ec2::GetConsoleOutputRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:GetConsoleOutput", "instance", &request.instance_id)?])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: ec2::GetConsoleOutputRequest,
    ) -> Result<ec2::GetConsoleOutputResult, Error> {
        let instance: InstanceId = request.instance_id.parse()?;
        let output = match host_of(&cx, instance).await? {
            Some(host) => ask(&*self.hosts, host, QueryKind::ConsoleOutput { instance }).await?,
            None => None,
        };
        let (output, timestamp) = output.unwrap_or_else(|| (String::new(), cx.clock.now()));
        Ok(ec2::GetConsoleOutputResult {
            instance_id: Some(instance.to_string()),
            output: Some(output),
            timestamp: Some(timestamp),
        })
    }
}

pub struct GetConsoleScreenshot {
    pub hosts: Arc<dyn HostQueries>,
}

#[async_trait]
impl LiveAction for GetConsoleScreenshot {
    type Op = ec2::ops::GetConsoleScreenshot;
    const ACCESS: Access = Access::Read;

    fn targets(&self, cx: &Context<'_>, request: &ec2::GetConsoleScreenshotRequest) -> Result<Vec<Target>, Error> {
        Ok(vec![Target::ec2(cx, "ec2:GetConsoleScreenshot", "instance", &request.instance_id)?])
    }

    async fn run(
        &self,
        cx: LiveContext<'_>,
        request: ec2::GetConsoleScreenshotRequest,
    ) -> Result<ec2::GetConsoleScreenshotResult, Error> {
        let instance: InstanceId = request.instance_id.parse()?;
        let picture = match host_of(&cx, instance).await? {
            Some(host) => ask(&*self.hosts, host, QueryKind::ConsoleScreenshot { instance }).await?,
            None => None,
        };
        let Some((image_data, _)) = picture else {
            let message = format!("The instance '{instance}' is not in the 'running' state.");
            return Err(Error::conflict("IncorrectInstanceState", message));
        };
        Ok(ec2::GetConsoleScreenshotResult { image_data: Some(image_data), instance_id: Some(instance.to_string()) })
    }
}
