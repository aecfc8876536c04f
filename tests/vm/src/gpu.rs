// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is mapped on a simulated GPU: the driver's runlist, and the slots of the scheduler that obeys it.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::time::Duration;

use anyhow::Context;
use gpreempt::event::GpuId;
use gpreempt::kfd::rls::{self, Engine, Packet};

use crate::guest;
use crate::load::Load;

const RUNLISTS: &str = "/sys/kernel/debug/kfd/rls";

/// How runlists and slots name a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pasid: u32,
    sdma: bool,
    /// User space knows its doorbells within their page, the driver on the whole BAR.
    doorbell_in_page: u64,
}

impl Place {
    fn new(pasid: u32, sdma: bool, doorbell_bytes: u64) -> Self {
        Self {
            pasid,
            sdma,
            doorbell_in_page: doorbell_bytes % 4096,
        }
    }
}

/// The queues that the driver gave to the scheduler of a node.
pub(crate) fn runlist(gpu_id: u64) -> anyhow::Result<BTreeSet<Place>> {
    // A runlist that the driver is just writing is shown without packets (pm_create_runlist_ib, Linux 6.12).
    let nodes = guest::eventually("a whole runlist", || {
        let text = fs::read_to_string(RUNLISTS).with_context(|| format!("read {RUNLISTS}"))?;
        Ok(rls::parse(&text).ok())
    })?;
    let node = nodes
        .into_iter()
        .find(|node| node.gpu_id == GpuId(gpu_id as u32))
        .with_context(|| format!("{RUNLISTS}: no GPU {gpu_id}"))?;
    let mut process = 0;
    let mut places = BTreeSet::new();
    for packet in node.packets.iter().flatten() {
        match *packet {
            Packet::MapProcess { pasid, .. } => process = pasid,
            Packet::MapQueue {
                engine, doorbell, ..
            } => {
                let sdma = !matches!(engine, Engine::Compute);
                let place = Place::new(process, sdma, u64::from(doorbell) * 4);
                anyhow::ensure!(places.insert(place), "{place:?} is in the runlist twice");
            }
            Packet::RunList | Packet::Other { .. } => {}
        }
    }
    Ok(places)
}

/// The queues in the slots of the simulated GPU with this index. It follows the runlist a little later.
pub(crate) fn slots(index: usize) -> anyhow::Result<BTreeSet<Place>> {
    let path = format!("/sys/kernel/debug/simgpu/{index}/slots");
    let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
    let mut places = BTreeSet::new();
    for line in text.lines() {
        let field = |name: &str| {
            line.split_whitespace()
                .find_map(|word| word.strip_prefix(name)?.strip_prefix('='))
                .with_context(|| format!("{path}: no {name}: {line}"))
        };
        let doorbell = field("doorbell")?.trim_start_matches("0x");
        places.insert(Place::new(
            field("pasid")?.parse().context("pasid")?,
            field("kind")? == "sdma",
            u64::from_str_radix(doorbell, 16).context("doorbell")? * 4,
        ));
    }
    Ok(places)
}

/// UNMAP_QUEUES packets of one GPU since a moment.
pub(crate) struct Unmaps {
    gpu: usize,
    before: u64,
}

impl Unmaps {
    /// From now on.
    pub(crate) fn from_here(gpu: usize) -> anyhow::Result<Self> {
        let before = guest::stat(gpu, "unmap_packets")?;
        Ok(Self { gpu, before })
    }

    pub(crate) fn count(&self) -> anyhow::Result<u64> {
        Ok(guest::stat(self.gpu, "unmap_packets")? - self.before)
    }
}

/// A load whose queues can be found in runlists.
pub(crate) struct Job {
    pub(crate) load: Load,
    pasid: u32,
}

impl Job {
    /// Takes a load over.
    pub(crate) fn new(load: Load) -> anyhow::Result<Self> {
        let path = format!("/sys/class/kfd/kfd/proc/{}/pasid", load.pid());
        let text = fs::read_to_string(&path).with_context(|| format!("read {path}"))?;
        let pasid = text.trim().parse().with_context(|| path.clone())?;
        Ok(Self { load, pasid })
    }

    /// Queues that are always busy, for somebody else to stop.
    pub(crate) fn offline(queues: usize) -> anyhow::Result<Self> {
        Self::busy(&["--profile", "simple", "--queues", &queues.to_string()])
    }

    /// Any load whose queues are always busy.
    pub(crate) fn busy(args: &[&str]) -> anyhow::Result<Self> {
        Self::new(Load::start(&busy(args))?)
    }

    /// A queue whose requests come independently of each other.
    pub(crate) fn online() -> anyhow::Result<Self> {
        let args = ["--profile", "inference", "--queues", "1"];
        let pace = ["--rate", "100", "--dispatch-us", "50"];
        Self::new(Load::start(&[args, pace].concat())?)
    }

    pub(crate) fn pid(&self) -> u32 {
        self.load.pid()
    }

    /// Its queues and where they would be mapped, as `(gpu_id, place)` by queue id.
    pub(crate) fn places(&self) -> anyhow::Result<BTreeMap<u64, (u64, Place)>> {
        let mut places = BTreeMap::new();
        let gpus: Vec<u64> = self
            .load
            .created()
            .iter()
            .map(|line| line.number("gpu_id"))
            .collect::<anyhow::Result<_>>()?;
        for line in self.load.lines() {
            let command = line.data["command"].as_str().unwrap_or_default();
            let words: Vec<&str> = command.split_whitespace().collect();
            let (gpu_id, queues) = match (line.kind.as_str(), words.as_slice()) {
                ("created", _) => (line.number("gpu_id")?, line.list("queues")?),
                ("ack", ["create", _, rest @ ..]) if line.data["ok"] == true => {
                    let gpu = rest.first().map_or(Ok(0), |word| word.parse::<usize>())?;
                    let queue = crate::record::Record {
                        kind: "queue".into(),
                        data: line.data["queue"].clone(),
                    };
                    (*gpus.get(gpu).context("no such GPU")?, vec![queue])
                }
                ("ack", ["destroy", queue]) if line.data["ok"] == true => {
                    places.remove(&queue.parse()?);
                    continue;
                }
                _ => continue,
            };
            for queue in queues {
                let sdma = queue.text("type")? == "sdma";
                let place = Place::new(self.pasid, sdma, queue.number("doorbell_in_slice")?);
                places.insert(queue.number("queue_id")?, (gpu_id, place));
            }
        }
        Ok(places)
    }

    /// Ids of all its queues.
    pub(crate) fn ids(&self) -> anyhow::Result<BTreeSet<u64>> {
        Ok(self.places()?.into_keys().collect())
    }

    /// Ids of its queues in the runlists.
    pub(crate) fn mapped(&self) -> anyhow::Result<BTreeSet<u64>> {
        let places = self.places()?;
        let gpus: BTreeSet<u64> = places.values().map(|(gpu_id, _)| *gpu_id).collect();
        let mut mapped = BTreeSet::new();
        for gpu in gpus {
            let list = runlist(gpu)?;
            let here = places
                .iter()
                .filter(|(_, (gpu_id, place))| *gpu_id == gpu && list.contains(place));
            mapped.extend(here.map(|(id, _)| *id));
        }
        Ok(mapped)
    }

    /// Fails unless exactly these queues of it are in the runlists. Others must not be there at any moment; these may be missing
    /// for a moment: the driver shows no runlist while it sends another one, and sends one when any process ends that had
    /// opened the device (`process_termination_cpsch`, Linux 6.12).
    pub(crate) fn expect_mapped(
        &self,
        ids: impl IntoIterator<Item = u64>,
        when: &str,
    ) -> anyhow::Result<()> {
        let wanted = BTreeSet::from_iter(ids);
        let mut mapped = self.mapped()?;
        if mapped != wanted && mapped.is_subset(&wanted) {
            println!("{when}: only {mapped:?} of {wanted:?} in the runlist, looking again");
            let _ = guest::eventually("another runlist", || {
                mapped = self.mapped()?;
                Ok((mapped == wanted || !mapped.is_subset(&wanted)).then_some(()))
            });
        }
        anyhow::ensure!(
            mapped == wanted,
            "{when}: queues {mapped:?} of process {} are in the runlist, not {wanted:?}: {}",
            self.pid(),
            fs::read_to_string(RUNLISTS)?
        );
        Ok(())
    }

    /// Fails unless none is in the runlists.
    pub(crate) fn expect_held(&self, when: &str) -> anyhow::Result<()> {
        self.expect_mapped([], when)
    }

    /// Fails unless all are in the runlists.
    pub(crate) fn expect_running(&self, when: &str) -> anyhow::Result<()> {
        self.expect_mapped(self.ids()?, when)
    }

    /// Waits until all are in the runlists.
    pub(crate) fn wait_running(&self, when: &str) -> anyhow::Result<()> {
        let ids = self.ids()?;
        guest::eventually(when, || Ok((self.mapped()? == ids).then_some(())))
            .with_context(|| format!("in the runlist: {:?} of {ids:?}", self.mapped()))
    }

    /// Waits until the GPU has gone on reading every queue of it.
    pub(crate) fn goes_on(&mut self) -> anyhow::Result<()> {
        let before = self.load.read_indices()?;
        let mut now = before.clone();
        guest::eventually("every queue to go on", || {
            now = self.load.read_indices()?;
            let stuck = before
                .iter()
                .any(|(id, index)| now.get(id).is_none_or(|now| now <= index));
            Ok((!stuck).then_some(()))
        })
        .with_context(|| {
            format!(
                "process {}: read indices {before:?} before, {now:?} now",
                self.pid()
            )
        })
    }

    /// Fails if the GPU reads on in one of these queues while `witness` has so many requests served.
    pub(crate) fn stands_still(
        &mut self,
        ids: &BTreeSet<u64>,
        witness: &mut Job,
        requests: u64,
    ) -> anyhow::Result<()> {
        let of = |indices: BTreeMap<u64, u64>| -> BTreeMap<u64, u64> {
            indices
                .into_iter()
                .filter(|(id, _)| ids.contains(id))
                .collect()
        };
        let before = of(self.load.read_indices()?);
        anyhow::ensure!(before.len() == ids.len(), "{before:?} are not all {ids:?}");
        witness.serves(requests)?;
        let after = of(self.load.read_indices()?);
        anyhow::ensure!(
            before == after,
            "the GPU went on in held queues: {before:?} before, {after:?} after"
        );
        Ok(())
    }

    /// The typical latency of the next so many requests: the median of the medians of short periods.
    pub(crate) fn latency_us(&mut self, requests: u64) -> anyhow::Result<f64> {
        // What was completed so far is not meant.
        self.load.reports()?;
        let (mut medians, mut count) = (Vec::new(), 0);
        // Not often: asking costs the process time, too.
        guest::eventually_every(Duration::from_millis(250), "requests to time", || {
            for report in self.load.reports()? {
                let latency = &report.data["latency_us"];
                if let Some(median) = latency["p50"].as_f64() {
                    medians.push(median);
                    count += latency["count"].as_u64().unwrap_or_default();
                }
            }
            Ok((count >= requests).then_some(()))
        })?;
        medians.sort_by(f64::total_cmp);
        Ok(medians[medians.len() / 2])
    }

    /// Waits until so many more requests are complete.
    pub(crate) fn serves(&mut self, requests: u64) -> anyhow::Result<()> {
        let before = self.load.requests()?;
        guest::eventually("requests of the witness", || {
            Ok((self.load.requests()? >= before + requests).then_some(()))
        })
    }
}

/// Arguments that keep every queue of a load busy.
pub(crate) fn busy<'a>(args: &[&'a str]) -> Vec<&'a str> {
    let mut all = args.to_vec();
    // Long work: under emulation the completions cost more than anything that is tested.
    all.extend(["--rate", "0", "--dispatch-us", "4000"]);
    // Nobody reads reports that nobody asked for.
    all.extend(["--report-ms", "3600000"]);
    all
}
