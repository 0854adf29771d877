// SPDX-License-Identifier: MIT OR Apache-2.0

//! The one request of a call on another CPU, and which requests are complete.
//!
//! Requests have numbers. A caller that gave up leaves a function that may still run; when it
//! returns at last, it completes its own number and not the request of the next caller:
//!
//! ```text
//! CPU 0: posts request 1; CPU 2 takes it and runs for long
//! CPU 0: gives up
//! CPU 1: posts request 2, waits for it
//! CPU 2: completes request 1; request 2 is not complete
//! ```

/// A function to run. It runs in an interrupt of the other CPU, so it must not sleep.
pub type Function = fn(u64);

/// A function for another CPU.
#[derive(Clone, Copy, Debug)]
pub struct Request {
    number: u64,
    target: u32,
    /// What to run.
    pub function: Function,
    /// Its argument.
    pub argument: u64,
}

/// A place for one request.
#[derive(Debug)]
pub struct Mailbox {
    /// Not taken yet.
    waiting: Option<Request>,
    /// The number of the last request.
    last: u64,
    /// The highest number that is complete.
    complete: u64,
}

impl Mailbox {
    /// Nothing was requested.
    pub const EMPTY: Self = Self {
        waiting: None,
        last: 0,
        complete: 0,
    };

    /// Asks CPU `target` to run `function(argument)`, and returns the number of the request. It
    /// replaces a request that still waits.
    pub fn post(&mut self, target: u32, function: Function, argument: u64) -> u64 {
        self.last += 1;
        self.waiting = Some(Request {
            number: self.last,
            target,
            function,
            argument,
        });
        self.last
    }

    /// Takes back the request that waits, if there is one.
    pub fn withdraw(&mut self) {
        self.waiting = None;
    }

    /// The request for CPU `index`, if one waits. The CPU must run it.
    pub fn take(&mut self, index: u32) -> Option<Request> {
        self.waiting.take_if(|request| request.target == index)
    }

    /// Notes that the function of `request` has returned.
    pub fn complete(&mut self, request: &Request) {
        self.complete = self.complete.max(request.number);
    }

    /// Whether the request with this number is complete.
    pub fn is_complete(&self, number: u64) -> bool {
        self.complete >= number
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_for_its_target_and_taken_once() {
        let mut mailbox = Mailbox::EMPTY;
        let number = mailbox.post(2, |_| (), 7);
        assert!(mailbox.take(1).is_none());
        let request = mailbox.take(2).unwrap();
        assert_eq!(request.argument, 7);
        assert!(mailbox.take(2).is_none());
        assert!(!mailbox.is_complete(number));
        mailbox.complete(&request);
        assert!(mailbox.is_complete(number));
    }

    #[test]
    fn a_request_that_was_taken_back_is_not_taken() {
        let mut mailbox = Mailbox::EMPTY;
        mailbox.post(2, |_| (), 0);
        mailbox.withdraw();
        assert!(mailbox.take(2).is_none());
    }

    #[test]
    fn a_late_function_completes_its_own_request_only() {
        let mut mailbox = Mailbox::EMPTY;
        mailbox.post(2, |_| (), 1);
        let late = mailbox.take(2).unwrap();
        // The first caller gives up.
        mailbox.withdraw();
        let number = mailbox.post(3, |_| (), 2);
        mailbox.complete(&late);
        assert!(!mailbox.is_complete(number));
        let request = mailbox.take(3).unwrap();
        assert_eq!(request.argument, 2);
        mailbox.complete(&request);
        assert!(mailbox.is_complete(number));
        // Or the other way round.
        let mut mailbox = Mailbox::EMPTY;
        mailbox.post(2, |_| (), 1);
        let late = mailbox.take(2).unwrap();
        let number = mailbox.post(3, |_| (), 2);
        let request = mailbox.take(3).unwrap();
        mailbox.complete(&request);
        mailbox.complete(&late);
        assert!(mailbox.is_complete(number));
    }
}
