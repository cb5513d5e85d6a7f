//! The workers' threads before the order of their batches: each waits for its turn, and is woken for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rand::RngExt as _;
use rand_xoshiro::Xoshiro256PlusPlus;
use rand_xoshiro::rand_core::SeedableRng as _;

use super::{Order, Outcome, Pace, Verdict};
use crate::clock;

/// The order, shared by the workers of one sink.
pub struct Throttle {
    order: Mutex<Order>,
    /// One a worker.
    bells: Vec<Condvar>,
}

impl Throttle {
    /// For so many workers.
    pub fn new(pace: Pace, workers: usize) -> Arc<Self> {
        let order = Mutex::new(Order::new(pace, workers, Instant::now()));
        let bells = (0..workers).map(|_| Condvar::new()).collect();
        Arc::new(Self { order, bells })
    }

    /// The age of the oldest batch that is not served yet.
    pub fn oldest(&self) -> Duration {
        self.order.lock().oldest(Instant::now())
    }

    fn wake_next(&self, order: &Order) {
        if let Some(bell) = order.next().and_then(|worker| self.bells.get(worker)) {
            bell.notify_one();
        }
    }
}

/// One worker's place in the order; dropping it leaves.
pub struct Place {
    throttle: Arc<Throttle>,
    worker: usize,
    rng: Xoshiro256PlusPlus,
}

impl Place {
    /// That of worker `worker`, whose number is below that of the workers and its own.
    pub fn new(throttle: Arc<Throttle>, worker: usize) -> Self {
        let seed = clock::now_us().unsigned_abs() ^ ((worker as u64) << 48);
        Self { throttle, worker, rng: Xoshiro256PlusPlus::seed_from_u64(seed) }
    }

    /// Waits at most `time` until a call of `events` events may begin; true when it has.
    pub fn may_call(&mut self, events: usize, time: Duration) -> bool {
        let deadline = Instant::now() + time;
        let mut order = self.throttle.order.lock();
        loop {
            let now = Instant::now();
            let until = match order.may_begin(self.worker, events, now) {
                Verdict::Go => {
                    self.throttle.wake_next(&order);
                    return true;
                }
                Verdict::At(at) => at.min(deadline),
                Verdict::Later => deadline,
            };
            let Some(bell) = self.throttle.bells.get(self.worker).filter(|_| now < deadline) else {
                return false;
            };
            bell.wait_until(&mut order, until);
        }
    }

    /// The call ended: how long to wait before the next one of this batch; none where that is the worker's choice, or
    /// there is no next one.
    pub fn ended(&mut self, outcome: &Outcome) -> Option<Duration> {
        let chance = self.rng.random_range(0.0..1.0);
        let mut order = self.throttle.order.lock();
        let wait = order.ended(self.worker, outcome, Instant::now(), chance);
        self.throttle.wake_next(&order);
        wait
    }

    /// This worker's batch is given up, or gone.
    pub fn leave(&mut self) {
        let mut order = self.throttle.order.lock();
        order.leave(self.worker);
        self.throttle.wake_next(&order);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.leave();
    }
}
