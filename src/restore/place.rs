//! Carries plans out, all targets together in passes, so that what can't be opened half-restored becomes unreadable first and
//! readable last.

use super::durable::Durable;
use super::error::RestoreError;
use super::plan::Action;
use super::report::Placed;
use super::target::Way;
use super::worker::{Order, Worker};
use crate::progress::Progress;

/// Makes every target what its goal is. When this returns, everything is durable, also what an earlier run left behind that
/// is right already.
///
/// 1. Databases that change become unreadable. 2. What the snapshots don't have goes. 3. Everything is written and linked
///    but what makes databases readable again, and made durable. 4. Databases become readable. 5. Directories get their
///    attributes.
pub fn place(orders: &[Order<'_>], progress: &dyn Progress) -> Result<Placed, RestoreError> {
    let mut placed = Placed::default();
    let mut durable = Durable::default();
    let mut workers = Vec::with_capacity(orders.len());
    for order in orders {
        placed.kept_files += order.plan.kept_files;
        placed.problems.extend(order.plan.problems.iter().cloned());
        let has_work = order.plan.steps.iter().any(|step| step.action != Action::Keep);
        if has_work {
            let worker = Worker::new(order, progress)?;
            durable.watch(worker.above())?;
            workers.push(worker);
        } else if let Some(way) = Way::open(order.target)? {
            durable.watch(way.above())?;
        }
        order.plan.mounts.iter().try_for_each(|path| durable.watch_path(path))?;
    }
    workers.iter_mut().try_for_each(|worker| worker.mark_databases(&mut placed))?;
    workers.iter_mut().try_for_each(|worker| worker.remove_old(&mut placed))?;
    workers.iter_mut().try_for_each(|worker| worker.write_all(&mut placed, &mut durable))?;
    workers.iter_mut().try_for_each(|worker| worker.link_all(false, &mut placed))?;
    durable.flush()?;
    workers.iter_mut().try_for_each(|worker| worker.finish_databases(&mut placed))?;
    workers.iter_mut().try_for_each(|worker| worker.link_all(true, &mut placed))?;
    workers.iter_mut().try_for_each(|worker| worker.close(&mut placed))?;
    durable.flush()?;
    Ok(placed)
}
